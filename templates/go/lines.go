package main

import (
	"context"
	"errors"
	"os"

	mangrove "mangrove.invalid/sdk/go"
)

type linesConfig struct {
	Path string `json:"path"`
}

// lines appends each result to a file, as a line of JSON.
type lines struct {
	file *os.File
}

func openLines(_ context.Context, _ *mangrove.Use, config linesConfig) (mangrove.Sink, error) {
	if config.Path == "" {
		return nil, errors.New("path is missing; expected a file")
	}
	file, err := os.OpenFile(config.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &lines{file}, nil
}

// The host takes a result for safe when Collect returns.
func (s *lines) Collect(_ context.Context, result mangrove.Result) error {
	_, err := s.file.Write(append(result, '\n'))
	return err
}

func (s *lines) Close() error { return s.file.Close() }
