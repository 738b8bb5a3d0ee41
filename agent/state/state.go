// Package state keeps small documents on disk: desired state, last good sets,
// registry sessions. A file is replaced whole (temporary file, fsync, rename,
// fsync of the directory), readable by its owner only, and carries a checksum.
//
// Invariant: after a crash at any moment Load gives either the old or the new
// document, never a mixture; a damaged file is moved aside, never deleted.
package state

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/meshferry/meshferry/internal/durable"
)

// ErrDamaged says that a file was there but could not be trusted. It has been
// moved to <file>.damaged.
var ErrDamaged = errors.New("damaged state file")

// File is one document.
type File struct{ Path string }

const header = "meshferry-state 1 sha256:"

// Save writes v as JSON.
func (f File) Save(v any) error {
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return fmt.Errorf("save %s: %w", f.Path, err)
	}
	sum := sha256.Sum256(body)
	if err := durable.Replace(f.Path, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "%s%s\n%s", header, hex.EncodeToString(sum[:]), body)
		return err
	}); err != nil {
		return fmt.Errorf("save %s: %w", f.Path, err)
	}
	return nil
}

// Load reads the document into v. A file that is not there leaves v as it is.
// One that is cut, altered or not of this format is moved aside, v is left as it
// is, and the error wraps ErrDamaged.
func (f File) Load(v any) error {
	content, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("load %s: %w", f.Path, err)
	}
	if why := decode(content, v); why != nil {
		aside := f.Path + ".damaged"
		if err := os.Rename(f.Path, aside); err != nil {
			return fmt.Errorf("load %s: %w: %w; and it could not be moved aside: %w", f.Path, ErrDamaged, why, err)
		}
		return fmt.Errorf("load %s: %w: %w; moved to %s", f.Path, ErrDamaged, why, aside)
	}
	return nil
}

func decode(content []byte, v any) error {
	first, body, ok := bytes.Cut(content, []byte("\n"))
	want, isHeader := bytes.CutPrefix(first, []byte(header))
	if !ok || !isHeader {
		return errors.New("no header")
	}
	if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != string(want) {
		return errors.New("checksum differs")
	}
	return json.Unmarshal(body, v)
}
