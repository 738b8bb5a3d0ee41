// Package local is the embedded registry: processes on one machine share a
// directory, without any server. It is for demos, tests and single hosts; the
// directory must be on a local file system, and the system must be Linux.
//
// Every Registry that publishes has one entry file: JSON with its host id, its
// pid and what it holds. The owner keeps the file open for writing and keeps an
// exclusive flock on it. A change is a new file that is locked under a temporary
// name and then renamed over the old one.
//
// Invariants:
//   - The file at an entry's path is locked by its owner for as long as the
//     owner lives. So who gets a shared lock on it, and then still finds the same
//     inode at the path, knows that the owner is dead. It removes the file while
//     it has that lock. Names are never used twice, so nobody can revive it.
//   - Readers lock only without waiting, and shared: they never disturb an owner
//     or each other. A blocking flock would tell of a death too, but it cannot be
//     interrupted, and would leave a thread behind for each foreign file.
//   - What wakes a reader is inotify on the directory. A rename, a removal and
//     the close of a file that was open for writing are events. The kernel closes
//     the files of a process that dies however it dies, kill -9 included, so a
//     death is seen at once. fsnotify does not pass the close event on, therefore
//     inotify is used directly.
//   - An event is a hint only; the lock decides. The kernel reports the close
//     shortly before it drops the lock (fs/file_table.c, __fput), so after a
//     close event the lock is tried again for one second, quickly first. Whatever
//     an event missed is found by a look at everything each 5 s.
//   - Apply decides under an exclusive lock on the file ".lock", so of several
//     that want one entry exactly one gets it. A live entry of the same host id
//     is no conflict: during a hot upgrade the old and the new process hold the
//     same entries, and readers count them once.
//   - An entry dies with its process, or with Run. It is not resumed.
//   - A file that is no entry is skipped with one log line and never removed.
package local
