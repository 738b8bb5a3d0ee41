package meshferry

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// file keeps the last answer of one subscription. Each has its own, so that the
// processes of an application, which share the directory, never overwrite
// another subscription. The empty file keeps nothing.
type file string

type kept struct {
	Answer Answer
}

func cacheFile(dir, application, id string) file {
	if dir == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(application + " " + id))
	return file(filepath.Join(dir, hex.EncodeToString(sum[:12])+".json"))
}

// load gives the zero Answer if there is none.
func (f file) load() (Answer, error) {
	if f == "" {
		return Answer{}, nil
	}
	text, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return Answer{}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return Answer{}, fmt.Errorf("%s: %w", f, err)
	}
	return k.Answer, nil
}

// save replaces the file whole, readable by its owner only: URLs may carry tokens.
func (f file) save(a Answer) (err error) {
	if f == "" {
		return nil
	}
	text, err := json.MarshalIndent(kept{Answer: a}, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(string(f)), ".tmp-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(text)
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), string(f))
	}
	return err
}
