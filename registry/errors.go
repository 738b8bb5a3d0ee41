package registry

import "errors"

var (
	// ErrAway says that the registry cannot be reached now.
	ErrAway = errors.New("registry away")
	// ErrConflict says that a live foreign owner holds an entry.
	ErrConflict = errors.New("held by another owner")
)
