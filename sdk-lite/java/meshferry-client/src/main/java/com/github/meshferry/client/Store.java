package com.github.meshferry.client;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.attribute.FileAttribute;
import java.nio.file.attribute.PosixFilePermissions;

/**
 * Keeps the last answer to one subscription. Each has a file of its own, so that the processes of an application, which
 * share the directory, never overwrite another subscription.
 */
final class Store {
    private final Path file;

    /** A null directory keeps nothing. */
    Store(Path directory, String application, String identity) {
        if (directory == null) {
            file = null;
            return;
        }
        String name = application + "_" + identity.trim();
        long hash = 0xcbf29ce484222325L; // FNV-1a: names that look alike once cleaned stay apart
        for (byte b : name.getBytes(StandardCharsets.UTF_8)) {
            hash = (hash ^ b & 0xff) * 0x100000001b3L;
        }
        String clean = name.replaceAll("[^A-Za-z0-9._-]", "_");
        file = directory.resolve(clean.substring(0, Math.min(clean.length(), 120)) + "-" + Long.toHexString(hash) + ".json");
    }

    /** {@link Answer#NONE} if there is none. */
    Answer load() throws IOException {
        if (file == null) {
            return Answer.NONE;
        }
        try {
            return Answer.of(new String(Files.readAllBytes(file), StandardCharsets.UTF_8));
        } catch (NoSuchFileException e) {
            return Answer.NONE;
        } catch (IllegalArgumentException e) {
            throw new IOException(file + ": " + e.getMessage(), e);
        }
    }

    /** Replaces the file whole, readable by its owner only: URLs may carry tokens. */
    void save(Answer a) throws IOException {
        if (file == null) {
            return;
        }
        Path directory = file.getParent();
        boolean posix = file.getFileSystem().supportedFileAttributeViews().contains("posix");
        if (!Files.isDirectory(directory)) {
            Files.createDirectories(directory, posix
                    ? new FileAttribute<?>[] {PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------"))}
                    : new FileAttribute<?>[0]);
        }
        Path tmp = Files.createTempFile(directory, ".tmp-", ""); // made for the owner only
        try {
            Files.write(tmp, a.toJson().getBytes(StandardCharsets.UTF_8));
            Files.move(tmp, file, StandardCopyOption.REPLACE_EXISTING, StandardCopyOption.ATOMIC_MOVE);
        } finally {
            Files.deleteIfExists(tmp);
        }
    }
}
