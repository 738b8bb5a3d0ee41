package org.example;

import java.io.BufferedReader;
import java.io.Closeable;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.util.List;
import java.util.concurrent.TimeUnit;

/** A process of a test: an agent, or an application that is driven over its standard input. */
final class Child implements Closeable {
    private final Process process;
    private final File log;
    private final BufferedReader out;
    private final Writer in;

    Child(File log, List<String> command) throws IOException {
        this.log = log;
        process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.appendTo(log)).start();
        out = new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
        in = new OutputStreamWriter(process.getOutputStream(), StandardCharsets.UTF_8);
    }

    /** The next line that it says. */
    String line() throws IOException {
        String line = out.readLine();
        if (line == null) {
            throw new IOException("it ended:\n" + log());
        }
        return line;
    }

    String ask(String line) throws IOException {
        in.write(line + "\n");
        in.flush();
        return line();
    }

    boolean alive() {
        return process.isAlive();
    }

    String log() {
        try {
            return new String(Files.readAllBytes(log.toPath()), StandardCharsets.UTF_8);
        } catch (IOException e) {
            return e.toString();
        }
    }

    /** As kill -9 does. */
    @Override
    public void close() throws IOException {
        process.destroyForcibly();
        try {
            process.waitFor(10, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }
}
