package mangrove

import (
	"encoding/json"
	"fmt"
)

// elements splits a JSON array that is known to be valid, without decoding or copying what is in it. It saves the data
// path the passes that nested raw messages take.
func elements(array json.RawMessage) ([]json.RawMessage, error) {
	if isNull(array) {
		return nil, nil
	}
	if array[0] != '[' {
		return nil, fmt.Errorf("expected an array, not %s", excerpt(array))
	}
	var all []json.RawMessage
	depth, begin, quoted := 0, -1, false
	for at := 1; at < len(array); at++ {
		c := array[at]
		if quoted {
			switch c {
			case '\\':
				at++
			case '"':
				quoted = false
			}
			continue
		}
		switch c {
		case ' ', '\t', '\n', '\r':
			continue
		case ',', ']':
			if depth == 0 {
				if begin >= 0 {
					all = append(all, trimmed(array[begin:at:at]))
				}
				begin = -1
				continue
			}
			if c == ']' {
				depth--
			}
			continue
		case '}':
			depth--
			continue
		}
		if begin < 0 {
			begin = at
		}
		switch c {
		case '"':
			quoted = true
		case '[', '{':
			depth++
		}
	}
	return all, nil
}

func trimmed(raw json.RawMessage) json.RawMessage {
	for len(raw) > 0 {
		switch raw[len(raw)-1] {
		case ' ', '\t', '\n', '\r':
			raw = raw[: len(raw)-1 : len(raw)-1]
		default:
			return raw
		}
	}
	return raw
}
