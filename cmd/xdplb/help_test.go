// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestHelpStoryIsComplete wants the story of the helps to ask for that of every command.
func TestHelpStoryIsComplete(t *testing.T) {
	t.Parallel()
	story, err := os.ReadFile("testdata/help.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(story)) {
		if len(strings.TrimSuffix(line, "\n")) > 120 {
			t.Errorf("a line of help is longer than 120 columns: %s", line)
		}
	}
	var check func(*cobra.Command)
	check = func(cmd *cobra.Command) {
		if want := "exec xdplb help" + strings.TrimPrefix(cmd.CommandPath(), "xdplb") + "\n"; !strings.Contains(string(story), want) {
			t.Errorf("the story has no line %q", want)
		}
		for _, sub := range cmd.Commands() {
			check(sub)
		}
	}
	check(rootCommand(&environment{}))
}
