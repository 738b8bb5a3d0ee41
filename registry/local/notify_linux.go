package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// hint is what happened in the directory since the last look.
type hint struct {
	closed bool // a file that was open for writing was closed: its owner may be dead
	gone   bool // the directory itself was removed or moved
}

// notifier tells that something happened in a directory.
type notifier struct {
	file *os.File
	buf  [16 << 10]byte
}

func notify(dir string) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.EMFILE) {
			return nil, fmt.Errorf("inotify: %w (see the sysctl fs.inotify.max_user_instances)", err)
		}
		return nil, fmt.Errorf("inotify: %w", err)
	}
	// A file that was replaced or removed says nothing any more (EXCL_UNLINK):
	// owners close the old file after each change.
	const mask = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_DELETE |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK
	if _, err := unix.InotifyAddWatch(fd, dir, mask); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return &notifier{file: os.NewFile(uintptr(fd), "inotify")}, nil
}

// wait returns what happened, or nothing at the deadline. It errs after close.
func (n *notifier) wait(deadline time.Time) (hint, error) {
	if err := n.file.SetReadDeadline(deadline); err != nil {
		return hint{}, err
	}
	size, err := n.file.Read(n.buf[:])
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return hint{}, nil
	}
	if err != nil {
		return hint{}, err
	}
	var h hint
	for rest := n.buf[:size]; len(rest) >= unix.SizeofInotifyEvent; {
		mask := binary.NativeEndian.Uint32(rest[4:])
		name := binary.NativeEndian.Uint32(rest[12:])
		h.closed = h.closed || mask&(unix.IN_CLOSE_WRITE|unix.IN_Q_OVERFLOW) != 0
		h.gone = h.gone || mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_UNMOUNT|unix.IN_IGNORED) != 0
		rest = rest[min(uint64(len(rest)), unix.SizeofInotifyEvent+uint64(name)):]
	}
	return h, nil
}

func (n *notifier) close() { n.file.Close() }

// lockShared tries to take a shared lock and says whether it did.
func lockShared(f *os.File) (bool, error) { return lock(f, unix.LOCK_SH) }

// lockExclusive tries to take an exclusive lock and says whether it did.
func lockExclusive(f *os.File) (bool, error) { return lock(f, unix.LOCK_EX) }

func lock(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}

// openEntry opens a file for reading without being held up by what it may be (a
// pipe, a link to somewhere else).
func openEntry(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}
