// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import "fmt"

// ipvsadm's exit statuses beside 0.
const (
	statusMissing = 1   // of a listing of what is not there
	statusUsage   = 2   // the words are wrong
	statusRefused = 255 // popt does not know an option, or the kernel refuses
)

// Failure is why a command is not done.
type Failure struct {
	Text   string // for standard error, without the last newline
	Status int    // exit status
	// Ours says that ipvsadm would have done it, and xdplb does not: Text says what to do instead.
	Ours bool
}

// Error is the text.
func (f *Failure) Error() string { return f.Text }

// fail is an error about the words.
func fail(format string, args ...any) error {
	return &Failure{Text: fmt.Sprintf(format, args...), Status: statusUsage}
}

// refuse is an error about what ipvsadm has and xdplb does not.
func refuse(format string, args ...any) error {
	return &Failure{Text: fmt.Sprintf(format, args...), Status: statusUsage, Ours: true}
}

// kernel is an error in the words in which ipvsadm reports the kernel's refusals.
func kernel(text string) error {
	return &Failure{Text: text, Status: statusRefused}
}
