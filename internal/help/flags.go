// SPDX-License-Identifier: Apache-2.0

package help

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"xdplb/internal/lb"
)

// FlagError says what pflag refuses in the voice of other errors: the flag, the word that is wrong, and what is wanted.
func FlagError(err error) error {
	var (
		invalid *pflag.InvalidValueError
		value   *lb.ValueError
		bare    *pflag.ValueRequiredError
		unknown *pflag.NotExistError
	)
	switch {
	case errors.As(err, &invalid) && errors.As(err, &value):
		return fmt.Errorf("--%s %s", invalid.GetFlag().Name, value.Rest)
	case errors.As(err, &invalid):
		return fmt.Errorf("--%s %q: %w", invalid.GetFlag().Name, invalid.GetValue(), invalid.Unwrap())
	case errors.As(err, &bare):
		kind, _ := pflag.UnquoteUsage(bare.GetFlag())
		return fmt.Errorf("--%s needs a value, %s", bare.GetFlag().Name, kind)
	case errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() != "":
		return fmt.Errorf("unknown flag: -%s", unknown.GetSpecifiedName())
	}
	return err
}
