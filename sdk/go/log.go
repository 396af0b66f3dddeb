package mangrove

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
)

// handler sends records to the host, or to standard error when there is none.
type handler struct {
	session *session
	use     uint64
	level   slog.Leveler
	fields  []slog.Attr // of the logger, with the names of their groups in front
	prefix  string
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	lowest := slog.LevelInfo
	if h.level != nil {
		lowest = h.level.Level()
	}
	return level >= lowest
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	next.fields = append(next.fields[:len(next.fields):len(next.fields)], named(h.prefix, attrs)...)
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	next := *h
	if name != "" {
		next.prefix += name + "."
	}
	return &next
}

func named(prefix string, attrs []slog.Attr) []slog.Attr {
	all := make([]slog.Attr, 0, len(attrs))
	for _, attr := range attrs {
		all = append(all, slog.Attr{Key: prefix + attr.Key, Value: attr.Value})
	}
	return all
}

type logNote struct {
	Type    string         `json:"type"`
	Level   string         `json:"level"`
	Message string         `json:"message"`
	Use     uint64         `json:"use"`
	Fields  map[string]any `json:"fields,omitempty"`
}

func (h *handler) Handle(_ context.Context, record slog.Record) error {
	note := logNote{"log", levelName(record.Level), record.Message, h.use, map[string]any{}}
	for _, attr := range h.fields {
		addField(note.Fields, "", attr)
	}
	record.Attrs(func(attr slog.Attr) bool {
		addField(note.Fields, h.prefix, attr)
		return true
	})
	if !h.session.offer(note) {
		fmt.Fprintln(os.Stderr, note.Level, note.Message, note.Fields)
	}
	return nil
}

func addField(fields map[string]any, prefix string, attr slog.Attr) {
	value := attr.Value.Resolve()
	if value.Kind() == slog.KindGroup {
		if attr.Key != "" {
			prefix += attr.Key + "."
		}
		for _, inner := range value.Group() {
			addField(fields, prefix, inner)
		}
		return
	}
	if attr.Key == "" {
		return
	}
	// A field that JSON can't hold must not cost the line.
	plain := value.Any()
	if err, ok := plain.(error); ok {
		plain = err.Error()
	} else if _, err := json.Marshal(plain); err != nil || value.Kind() == slog.KindDuration {
		plain = value.String()
	}
	fields[prefix+attr.Key] = plain
}

func levelName(level slog.Level) string {
	switch {
	case level < slog.LevelDebug:
		return "trace"
	case level < slog.LevelInfo:
		return "debug"
	case level < slog.LevelWarn:
		return "info"
	case level < slog.LevelError:
		return "warn"
	default:
		return "error"
	}
}
