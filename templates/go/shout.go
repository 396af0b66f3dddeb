package main

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	mangrove "mangrove.invalid/sdk/go"
)

func oneArgument(args []json.RawMessage) error {
	if len(args) != 1 {
		return errors.New("it takes 1 argument")
	}
	return nil
}

// shout returns a text in capital letters.
func shout(_ context.Context, call *mangrove.Call) (any, error) {
	text, err := mangrove.Arg[string](call, 0)
	if err != nil {
		return nil, errors.New("it takes a text")
	}
	return strings.ToUpper(text), nil
}
