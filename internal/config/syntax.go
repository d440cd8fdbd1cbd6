// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"io"
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// parse returns the documents of a text; two are enough to know that there is more than the one that is wanted.
func parse(r io.Reader) (documents []*yaml.Node, err error) {
	decoder := yaml.NewDecoder(r)
	for len(documents) < 2 {
		var document yaml.Node
		switch err := decoder.Decode(&document); {
		case err == io.EOF:
			return documents, nil
		case err != nil:
			return nil, err
		}
		documents = append(documents, &document)
	}
	return documents, nil
}

// openQuote is what the parser says of a quote that nothing closes. The line that it names then is that of the quote, if
// that is not the first.
const openQuote = "found unexpected end of stream"

// syntaxError puts the file's name, line and column in front of an error of the YAML parser. The parser's own line is
// often that of the whole list or mapping in which the mistake is, and it knows no column.
func (d *decoder) syntaxError(text []byte, err error) error {
	words, line := parserWords(err)
	until := enough(text)
	if words == openQuote {
		until = min(until, endOfLine(text, line))
	}
	at := mistake(text, words, until)
	switch {
	case at < len(text) && text[at] == '\t':
		words = "a tab cannot indent: use spaces"
	case words == openQuote:
		words = "the quote is not closed"
	case bytes.HasPrefix(text[at:], []byte(":")) && bytes.HasSuffix(text[:at], []byte("]")):
		words = `an IPv6 address with a port needs quotes: "[ADDRESS]:PORT"`
	}
	before := text[:at]
	line = 1 + bytes.Count(before, []byte("\n"))
	column := 1 + utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	return fmt.Errorf("%s:%d:%d: %s", d.name, line, column, words)
}

// parserWords takes an error of the parser apart; the line is 0 if it names none, the words "" for no error.
func parserWords(err error) (words string, line int) {
	if err == nil {
		return "", 0
	}
	words = strings.TrimPrefix(err.Error(), "yaml: ")
	if before, after, ok := strings.Cut(words, ": "); ok {
		if _, err := fmt.Sscanf(before, "line %d", &line); err == nil {
			return after, line
		}
	}
	return words, 0
}

// endOfLine returns the offset of the end of a line, the first being 1.
func endOfLine(text []byte, line int) int {
	end := 0
	for range line {
		more := bytes.IndexByte(text[end:], '\n')
		if more < 0 {
			return len(text)
		}
		end += more + 1
	}
	return end
}

// mistake returns the offset of the word at which the parser gives up with these words, which it does in text[:until].
// There the shortest beginning of the text ends that it refuses with the same words, as it does all longer ones.
func mistake(text []byte, words string, until int) int {
	refused := func(length int) bool {
		_, err := parse(bytes.NewReader(text[:length]))
		same, _ := parserWords(err)
		return same == words
	}
	shortest := until
	for step, tries := 1, 0; shortest > 0; tries++ {
		shorter := max(shortest-step, 0)
		if !refused(shorter) {
			shortest = shorter + sort.Search(shortest-shorter, func(more int) bool { return refused(shorter + more) })
			break
		}
		shortest = shorter
		if tries > 100 { // a very long word
			step *= 2
		}
	}
	at := max(shortest-1, 0)
	const apart = " \t\r\n,[]{}\"'"
	for at > 0 && !strings.ContainsRune(apart, rune(text[at])) && !strings.ContainsRune(apart, rune(text[at-1])) {
		at--
	}
	return at
}

// enough returns how much of the text the parser reads until it gives up: a few bytes more than up to the mistake.
func enough(text []byte) int {
	reader := byByte{rest: text}
	_, _ = parse(&reader) // that it fails is known
	return len(text) - len(reader.rest)
}

// byByte is a reader that gives no more than one byte at a time.
type byByte struct{ rest []byte }

func (b *byByte) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1)], b.rest)
	b.rest = b.rest[n:]
	return n, nil
}
