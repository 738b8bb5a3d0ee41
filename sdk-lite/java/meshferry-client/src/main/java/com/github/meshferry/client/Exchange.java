package com.github.meshferry.client;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.SocketTimeoutException;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.SocketChannel;

/**
 * One connection that sends one request and reads what comes back, until the reader has enough, the far end closes, or
 * nothing was finished in time. Owned by its {@link Loop}.
 */
final class Exchange {
    interface Reader {
        /** Takes bytes; true: that was all. Throws if they cannot be what was expected. */
        boolean read(ByteBuffer in) throws IOException;

        /**
         * Told once how it ended, unless it was cancelled: null when the reader had enough or the far end closed in
         * order.
         */
        void ended(IOException error);
    }

    private final Loop loop;
    private final ByteBuffer out;
    private final Reader reader;
    private SocketChannel channel;
    private SelectionKey key;
    private Loop.Timer deadline;
    private boolean over;

    /** Begins at once. The end is never told from within. */
    Exchange(Loop loop, InetSocketAddress to, byte[] request, long ms, Reader reader) {
        this.loop = loop;
        this.out = ByteBuffer.wrap(request);
        this.reader = reader;
        patience(ms);
        try {
            channel = SocketChannel.open();
            channel.configureBlocking(false);
            boolean connected = channel.connect(to);
            key = channel.register(loop.selector, connected ? SelectionKey.OP_WRITE : SelectionKey.OP_CONNECT, this);
        } catch (IOException | RuntimeException e) { // an unresolved address is a RuntimeException
            loop.execute(() -> end(e instanceof IOException ? (IOException) e : new IOException(e.toString(), e)));
        }
    }

    /** From now on, so long until it must be over. */
    void patience(long ms) {
        if (deadline != null) {
            deadline.cancel();
        }
        deadline = loop.after(ms, () -> end(new SocketTimeoutException("no answer in time")));
    }

    /** The socket can do something. */
    void ready() {
        if (over) {
            return;
        }
        try {
            if (key.isConnectable() && channel.finishConnect()) {
                key.interestOps(SelectionKey.OP_WRITE);
            }
            if (key.isWritable()) {
                channel.write(out);
                if (!out.hasRemaining()) {
                    key.interestOps(SelectionKey.OP_READ);
                }
            }
            if (key.isReadable()) {
                receive();
            }
        } catch (IOException e) {
            end(e);
        }
    }

    private void receive() throws IOException {
        ByteBuffer in = ByteBuffer.allocate(8192);
        int n = channel.read(in);
        in.flip();
        if (n < 0 || n > 0 && reader.read(in)) {
            end(null);
        }
    }

    void cancel() {
        over = true;
        deadline.cancel();
        try {
            if (channel != null) {
                channel.close();
            }
        } catch (IOException e) {
            // it is of no use any more
        }
    }

    private void end(IOException error) {
        if (!over) {
            cancel();
            reader.ended(error);
        }
    }
}
