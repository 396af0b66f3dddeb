package main

import (
	"context"
	"errors"
	"time"

	mangrove "mangrove.invalid/sdk/go"
)

type numbersConfig struct {
	Interval *int `json:"interval"` // between two numbers, in milliseconds
	Count    int  `json:"count"`    // how many; 0: without end
}

// numbers counts, and goes on where it was when it is started again.
type numbers struct {
	interval time.Duration
	count    int
	last     int
}

type number struct {
	N int `json:"n"`
}

func openNumbers(_ context.Context, use *mangrove.Use, config numbersConfig) (mangrove.Source, error) {
	interval := 1000
	if config.Interval != nil {
		interval = *config.Interval
	}
	if interval < 0 || config.Count < 0 {
		return nil, errors.New("interval and count are not negative")
	}
	n := &numbers{interval: time.Duration(interval) * time.Millisecond, count: config.Count}
	_, err := use.Offset(&n.last)
	return n, err
}

func (s *numbers) Run(ctx context.Context, out *mangrove.Output) error {
	for n := s.last + 1; s.count == 0 || n <= s.count; n++ {
		if s.interval > 0 {
			select {
			case <-time.After(s.interval):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := out.SendTuple(ctx, mangrove.Tuple{Data: number{n}, Offset: n}); err != nil {
			return err
		}
	}
	return nil
}
