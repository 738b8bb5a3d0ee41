package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

const loadPiece = time.Second // of a load; one begins when the one before ends

// progress waits until the load has made some more calls.
func (d *demo) progress(ctx context.Context, t *tally, more int) error {
	made, failed := t.count()
	goal := made + more
	err := d.await(ctx, nil, "the calls", func() error {
		made, failed = t.count()
		switch {
		case len(failed) > 0:
			return nil
		case made < goal:
			return fmt.Errorf("%d of %d were made", made, goal)
		}
		return nil
	})
	if err == nil && len(failed) > 0 {
		err = fmt.Errorf("calls failed: %s", strings.Join(slices.Sorted(maps.Keys(failed)), "; "))
	}
	if err == nil {
		d.say("   %d calls so far, 0 failed", made)
	}
	return err
}

// tally is a load and what came of it.
type tally struct {
	cancel func()
	ended  chan struct{}
	counts chan counted // capacity 1: the present state
}

type counted struct {
	made   int
	pieces int
	failed map[string]int // by error
	by     map[string]int // by answer
}

// keepCalling keeps a load of so many calls a second on a consumer until stop.
func keepCalling(ctx context.Context, consumer *application, rate int) *tally {
	ctx, cancel := context.WithCancel(ctx)
	t := &tally{cancel: cancel, ended: make(chan struct{}), counts: make(chan counted, 1)}
	t.counts <- counted{failed: map[string]int{}, by: map[string]int{}}
	go func() {
		defer close(t.ended)
		for ctx.Err() == nil {
			piece, err := piece(context.WithoutCancel(ctx), consumer, rate)
			c := <-t.counts
			c.pieces++
			c.made += piece.Calls
			for answer, n := range piece.Answers {
				c.by[answer] += n
			}
			for text, n := range piece.Errors {
				c.failed[text] += n
			}
			if err != nil {
				c.failed[err.Error()]++
			}
			t.counts <- c
			if err != nil {
				return
			}
		}
	}()
	return t
}

func (t *tally) count() (made int, failed map[string]int) {
	c := t.now()
	return c.made, c.failed
}

// now is what came of it so far.
func (t *tally) now() counted {
	c := <-t.counts
	defer func() { t.counts <- c }()
	return counted{c.made, c.pieces, maps.Clone(c.failed), maps.Clone(c.by)}
}

func (t *tally) stop() (made int, failed map[string]int) {
	t.cancel()
	<-t.ended
	return t.count()
}

// ended is the summary at the end of a ledger of demo/app.
type ended struct {
	Calls, Skipped  int
	Errors, Answers map[string]int
}

// piece is one piece of a load.
func piece(ctx context.Context, a *application, rate int) (ended, error) {
	resp, err := fetch(ctx, a.http, fmt.Sprintf("/load?rate=%d&for=%s", rate, loadPiece))
	if err != nil {
		return ended{}, fmt.Errorf("%s: %w", a.name, err)
	}
	defer resp.Body.Close()
	var last json.RawMessage
	for d := json.NewDecoder(resp.Body); ; {
		var next json.RawMessage
		if err := d.Decode(&next); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return ended{}, fmt.Errorf("%s: %w", a.name, err)
		}
		last = next
	}
	var e ended
	err = json.Unmarshal(last, &e)
	if err == nil && (e.Calls == 0 || e.Skipped > 0) {
		err = fmt.Errorf("%s: %d calls, %d were not begun in time", a.name, e.Calls, e.Skipped)
	}
	return e, err
}
