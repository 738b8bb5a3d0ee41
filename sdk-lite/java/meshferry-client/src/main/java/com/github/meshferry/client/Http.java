package com.github.meshferry.client;

import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;

/**
 * The little of HTTP/1.0 (RFC 1945) that the control API needs: one request for each connection, and a reply that ends
 * with it. Calls are rare, so a connection for each costs nothing and leaves nothing behind.
 */
final class Http {
    /** Bytes; an answer lists every direct provider. */
    private static final int MAX_REPLY = 8 << 20;

    private Http() {}

    /** The text of a request; a body is JSON. */
    static byte[] request(String method, String path, String host, String token, String body) {
        StringBuilder head = new StringBuilder(200)
                .append(method).append(' ').append(path).append(" HTTP/1.0\r\nHost: ").append(host).append("\r\n");
        if (!token.isEmpty()) {
            head.append("Authorization: Bearer ").append(token).append("\r\n");
        }
        byte[] bytes = body == null ? new byte[0] : body.getBytes(StandardCharsets.UTF_8);
        if (body != null) {
            head.append("Content-Type: application/json\r\nContent-Length: ").append(bytes.length).append("\r\n");
        }
        byte[] headBytes = head.append("\r\n").toString().getBytes(StandardCharsets.UTF_8);
        ByteBuffer whole = ByteBuffer.allocate(headBytes.length + bytes.length);
        whole.put(headBytes).put(bytes);
        return whole.array();
    }

    /** Collects a reply. */
    abstract static class Reply implements Exchange.Reader {
        private final ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        /** 0 until the head is there. */
        private int status;
        private int begin;
        private int length = -1; // of the body, if it was told

        /** How it ended; the status is 0 and the body empty after an error. */
        abstract void ended(int status, String body, IOException error);

        @Override
        public boolean read(ByteBuffer in) throws IOException {
            if (bytes.size() + in.remaining() > MAX_REPLY) {
                throw new IOException("reply is longer than " + MAX_REPLY + " bytes");
            }
            bytes.write(in.array(), in.position(), in.remaining());
            if (status == 0) {
                head();
            }
            return status != 0 && (status == 304 || length >= 0 && bytes.size() - begin >= length);
        }

        private void head() throws IOException {
            String text = new String(bytes.toByteArray(), StandardCharsets.ISO_8859_1);
            int end = text.indexOf("\r\n\r\n");
            if (end < 0) {
                return;
            }
            String[] lines = text.substring(0, end).split("\r\n");
            if (!lines[0].startsWith("HTTP/1.") || lines[0].length() < 12) {
                throw new IOException("no HTTP reply: " + lines[0].substring(0, Math.min(40, lines[0].length())));
            }
            begin = end + 4;
            for (String line : lines) {
                if (line.regionMatches(true, 0, "content-length:", 0, 15)) {
                    length = number(line.substring(15).trim());
                }
            }
            status = number(lines[0].substring(9, 12));
        }

        private static int number(String text) throws IOException {
            try {
                return Integer.parseInt(text);
            } catch (NumberFormatException e) {
                throw new IOException("no HTTP reply: " + text + " is no number", e);
            }
        }

        @Override
        public final void ended(IOException error) {
            int size = bytes.size() - begin;
            if (error == null && (status == 0 || status != 304 && size < length)) {
                error = new EOFException("the reply ended early");
            }
            if (error != null) {
                ended(0, "", error);
            } else {
                ended(status, new String(bytes.toByteArray(), begin, size, StandardCharsets.UTF_8), null);
            }
        }

        /** The lines of a body that goes on, each once it is whole. Only after a status of 200. */
        final String line() {
            String text = status == 200 ? new String(bytes.toByteArray(), begin, bytes.size() - begin, StandardCharsets.UTF_8) : "";
            int end = text.indexOf('\n');
            if (end < 0) {
                return null;
            }
            byte[] all = bytes.toByteArray();
            int next = begin + text.substring(0, end + 1).getBytes(StandardCharsets.UTF_8).length;
            bytes.reset();
            bytes.write(all, next, all.length - next);
            begin = 0;
            return text.substring(0, end);
        }
    }
}
