package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	mangrove "mangrove.invalid/sdk/go"
)

type counterConfig struct {
	Count    int `json:"count"`    // how many tuples; 0: endless
	Interval int `json:"interval"` // between two of them, in milliseconds; 0: as fast as possible
	Size     int `json:"size"`     // of the padding, in bytes
	FailAt   int `json:"fail_at"`  // the tuple in whose place an error is reported; 0: none
}

// counter counts, and after a restart goes on where it was.
type counter struct {
	config counterConfig
	source string
	last   int
}

type counted struct {
	N   int    `json:"n"`
	Pid int    `json:"pid"`
	Pad string `json:"pad"`
}

func openCounter(_ context.Context, use *mangrove.Use, config counterConfig) (mangrove.Source, error) {
	if config.Count < 0 || config.Interval < 0 || config.Size < 0 || config.FailAt < 0 {
		return nil, errors.New("count, interval, size and fail_at are not negative")
	}
	c := &counter{config: config, source: use.DataSource}
	if _, err := use.Offset(&c.last); err != nil {
		return nil, fmt.Errorf("offset: %w", err)
	}
	return c, nil
}

func (c *counter) Run(ctx context.Context, out *mangrove.Output) error {
	meta := map[string]string{"source": c.source}
	tuple := counted{Pid: os.Getpid(), Pad: strings.Repeat("x", c.config.Size)}
	for n := c.last + 1; c.config.Count == 0 || n <= c.config.Count; n++ {
		if err := c.pause(ctx); err != nil {
			return err
		}
		if n == c.config.FailAt {
			if err := out.Report(ctx, fmt.Errorf("told to fail at %d", n)); err != nil {
				return err
			}
			continue
		}
		tuple.N = n
		if err := out.SendTuple(ctx, mangrove.Tuple{Data: tuple, Meta: meta, Offset: n}); err != nil {
			return err
		}
	}
	return nil
}

func (c *counter) pause(ctx context.Context) error {
	if c.config.Interval == 0 {
		return nil
	}
	select {
	case <-time.After(time.Duration(c.config.Interval) * time.Millisecond):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
