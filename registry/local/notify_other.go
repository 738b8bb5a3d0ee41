//go:build !linux

package local

import (
	"errors"
	"os"
	"time"
)

var errSystem = errors.New("the local registry needs Linux (inotify, flock)")

type hint struct{ closed, gone bool }

type notifier struct{}

func notify(string) (*notifier, error) { return nil, errSystem }

func (*notifier) wait(time.Time) (hint, error) { return hint{}, errSystem }

func (*notifier) close() {}

func lockShared(*os.File) (bool, error) { return false, errSystem }

func lockExclusive(*os.File) (bool, error) { return false, errSystem }

func openEntry(string) (*os.File, error) { return nil, errSystem }
