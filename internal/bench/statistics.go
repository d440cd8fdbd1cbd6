// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"math"
	"slices"
)

// Spread is what is told of a series: the minimum is the machine undisturbed, the median what repeats.
type Spread struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
}

func spread(values []float64) Spread {
	return Spread{Min: quantile(values, 0), Median: quantile(values, 0.5)}
}

// quantile interpolates linearly between the two nearest of the values; of none it is NaN.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	position := q * float64(len(sorted)-1)
	below := int(position)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	fraction := position - float64(below)
	return sorted[below]*(1-fraction) + sorted[below+1]*fraction
}

// combine applies f to each round of two series of equal length.
func combine(a, b []float64, f func(a, b float64) float64) []float64 {
	result := make([]float64, len(a))
	for i := range a {
		result[i] = f(a[i], b[i])
	}
	return result
}
