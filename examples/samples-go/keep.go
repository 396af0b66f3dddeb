package main

import (
	"bytes"
	"context"
	"errors"
	"os"

	mangrove "mangrove.invalid/sdk/go"
)

type keepConfig struct {
	Path string `json:"path"` // the file
	Fail string `json:"fail"` // what a result that fails contains; empty: none
}

// keep appends each result to a file, as a line of JSON.
type keep struct {
	file *os.File
	fail []byte
}

func openKeep(_ context.Context, _ *mangrove.Use, config keepConfig) (mangrove.Sink, error) {
	if config.Path == "" {
		return nil, errors.New("path is missing")
	}
	file, err := os.OpenFile(config.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &keep{file, []byte(config.Fail)}, nil
}

func (k *keep) Collect(_ context.Context, result mangrove.Result) error {
	if len(k.fail) > 0 && bytes.Contains(result, k.fail) {
		return errors.New("told to fail")
	}
	_, err := k.file.Write(append(result, '\n'))
	return err
}

func (k *keep) Close() error { return k.file.Close() }
