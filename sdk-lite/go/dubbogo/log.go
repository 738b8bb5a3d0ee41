package dubbogo

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dubbogo/gost/log/logger"
)

// dubboLog writes slog records to the logger of dubbo-go, which decides what is
// shown: the application has one log.
type dubboLog struct{ attrs []slog.Attr }

func (dubboLog) Enabled(context.Context, slog.Level) bool { return true }

func (l dubboLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	return dubboLog{append(l.attrs[:len(l.attrs):len(l.attrs)], attrs...)}
}

// WithGroup leaves groups out: the client uses none.
func (l dubboLog) WithGroup(string) slog.Handler { return l }

func (l dubboLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString("[Registry][Mesh] " + r.Message)
	attr := func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	}
	for _, a := range l.attrs {
		attr(a)
	}
	r.Attrs(attr)
	switch {
	case r.Level >= slog.LevelError:
		logger.Error(b.String())
	case r.Level >= slog.LevelWarn:
		logger.Warn(b.String())
	case r.Level >= slog.LevelInfo:
		logger.Info(b.String())
	default:
		logger.Debug(b.String())
	}
	return nil
}
