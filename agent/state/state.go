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
	"io/fs"
	"os"
	"path/filepath"
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
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s%s\n", header, hex.EncodeToString(sum[:]))
	b.Write(body)
	if err := f.replace(b.Bytes()); err != nil {
		return fmt.Errorf("save %s: %w", f.Path, err)
	}
	return nil
}

func (f File) replace(content []byte) (err error) {
	dir := filepath.Dir(f.Path)
	tmp, err := os.CreateTemp(dir, filepath.Base(f.Path)+".tmp-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(content)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), f.Path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
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
