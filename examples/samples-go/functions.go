package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	mangrove "mangrove.invalid/sdk/go"
)

func oneArgument(args []json.RawMessage) error {
	if len(args) != 1 {
		return errors.New("echo takes 1 argument")
	}
	return nil
}

// echo returns its argument.
func echo(_ context.Context, call *mangrove.Call) (any, error) {
	return mangrove.Arg[json.RawMessage](call, 0)
}

// slow returns its second argument after as many milliseconds as its first says.
func slow(ctx context.Context, call *mangrove.Call) (any, error) {
	pause, err := mangrove.Arg[float64](call, 0)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(time.Duration(pause * float64(time.Millisecond))):
		return mangrove.Arg[json.RawMessage](call, 1)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fail fails with the text it is given, and panics when that is "panic".
func fail(_ context.Context, call *mangrove.Call) (any, error) {
	text, err := mangrove.Arg[string](call, 0)
	if err != nil {
		return nil, err
	}
	if text == "panic" {
		panic("told to panic")
	}
	return nil, errors.New(text)
}

// total is the sum of a column's numbers.
func total(_ context.Context, call *mangrove.Call) (any, error) {
	column, err := mangrove.Arg[[]json.RawMessage](call, 0)
	if err != nil {
		return nil, err
	}
	sum := 0.0
	for _, value := range column {
		var number *float64
		if json.Unmarshal(value, &number) == nil && number != nil {
			sum += *number
		}
	}
	return sum, nil
}

// tally counts how often it was called with a key, in each rule.
func tally(ctx context.Context, call *mangrove.Call) (any, error) {
	key, err := mangrove.Arg[string](call, 0)
	if err != nil {
		return nil, err
	}
	return call.State().Add(ctx, key, 1)
}
