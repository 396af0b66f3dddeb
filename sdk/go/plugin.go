package mangrove

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"mangrove.invalid/sdk/go/internal/link"
)

// Version is what the plugin tells its host about its SDK.
const Version = "0.1.0"

// Plugin is a program's set of symbols. Register them, then call [Plugin.Main] or [Plugin.Run].
type Plugin struct {
	// LogLevel is the lowest level that loggers send to the host; [slog.LevelInfo] when it is nil.
	LogLevel slog.Leveler
	// StopTimeout is how long symbols may take to end after SIGTERM, or when the host gives no time of its own.
	StopTimeout time.Duration
	// CallLimit is how many calls of one function run at a time, at least 1; others wait.
	CallLimit int

	name      string
	sources   map[string]sourceOpener
	sinks     map[string]sinkOpener
	functions map[string]*function
}

type (
	sourceOpener func(ctx context.Context, use *Use, config json.RawMessage) (Source, error)
	sinkOpener   func(ctx context.Context, use *Use, config json.RawMessage) (Sink, error)
)

// New makes a plugin without symbols. An empty name stands for the one that the host has for it.
func New(name string) *Plugin {
	return &Plugin{
		StopTimeout: 5 * time.Second,
		CallLimit:   4096,
		name:        name,
		sources:     map[string]sourceOpener{},
		sinks:       map[string]sinkOpener{},
		functions:   map[string]*function{},
	}
}

// AddSource registers a source. open is called for each use; its error is what the host shows for a stream that
// doesn't start. The configuration is decoded from JSON into a C.
func AddSource[C any](p *Plugin, name string, open func(ctx context.Context, use *Use, config C) (Source, error)) {
	p.sources[name] = func(ctx context.Context, use *Use, raw json.RawMessage) (Source, error) {
		config, err := decodeConfig[C](raw)
		if err != nil {
			return nil, err
		}
		return open(ctx, use, config)
	}
}

// AddSink registers a sink. open is called for each use; its error is what the host shows for a rule that doesn't
// start. The configuration is decoded from JSON into a C. A sink that is an [io.Closer] is closed at its end.
func AddSink[C any](p *Plugin, name string, open func(ctx context.Context, use *Use, config C) (Sink, error)) {
	p.sinks[name] = func(ctx context.Context, use *Use, raw json.RawMessage) (Sink, error) {
		config, err := decodeConfig[C](raw)
		if err != nil {
			return nil, err
		}
		return open(ctx, use, config)
	}
}

func decodeConfig[C any](raw json.RawMessage) (config C, err error) {
	if len(raw) > 0 {
		if err = json.Unmarshal(raw, &config); err != nil {
			err = fmt.Errorf("configuration: %w", err)
		}
	}
	return config, err
}

// AddFunction registers a function, which may be called by many goroutines at a time.
func (p *Plugin) AddFunction(name string, exec func(ctx context.Context, call *Call) (any, error), options ...FunctionOption) {
	f := &function{exec: exec}
	for _, option := range options {
		option(f)
	}
	p.functions[name] = f
}

// RefusedError says that the host does not want this plugin.
type RefusedError struct{ Reason string }

func (e *RefusedError) Error() string { return "refused by the host: " + e.Reason }

// Main runs the plugin and ends the program: with status 0 after an orderly shutdown, 1 after an error, 2 when no
// Mangrove host has started it.
func (p *Plugin) Main() {
	err := p.Run(context.Background())
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, link.ErrNoHost):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Run serves the host until it sends a shutdown, SIGTERM or SIGINT comes, or ctx ends; all symbols are ended in order
// first. A broken connection is dialled again for ever. Its error is a [*RefusedError], or that of an environment
// without a host.
func (p *Plugin) Run(ctx context.Context) error {
	host, err := link.From(ctx)
	if err != nil {
		return err
	}
	if p.name == "" {
		p.name = host.Plugin
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	var backoff link.Backoff
	for {
		began := time.Now()
		err := p.serve(ctx, host)
		var refused *RefusedError
		switch {
		case err == nil || errors.As(err, &refused):
			return err
		case ctx.Err() != nil:
			return nil
		}
		if time.Since(began) > 10*time.Second {
			backoff.Reset()
		}
		fmt.Fprintln(os.Stderr, "control connection:", err)
		if backoff.Wait(ctx) != nil {
			return nil
		}
	}
}
