// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
)

// Curve is a quantity (y) as another grows (x), both above 0: one plot.
type Curve struct {
	Name  string `json:"name"` // of its files
	Title string `json:"title"`
	X     string `json:"x"` // what the axes show, with units
	Y     string `json:"y"`
	Lines []Line `json:"lines"`
}

// Line is one line of a curve.
type Line struct {
	Name   string  `json:"name"`
	Points []Point `json:"points"`
}

// Point is a point of a line.
type Point struct {
	X float64 `json:"x"`
	Y float64 `json:"y"`
	// Nanoseconds per packet, where Y is their ratio to the floor's.
	Nanoseconds *Spread `json:"ns,omitempty"`
}

// Sizes of a plot in pixels.
const (
	plotWidth, plotHeight   = 760.0, 460.0
	plotLeft, plotRight     = 72.0, 24.0
	plotTop, plotBottom     = 96.0, 60.0
	legendTop, legendSwatch = 64.0, 26.0
	characterWidth          = 7.0 // about, of the legend's text
	markerSize              = 4.0
)

// looks of the lines: colours that people with any colour vision tell apart (Okabe and Ito, "Color Universal Design",
// 2008), and markers that differ in print too.
func looks(line int) (colour, marker string) {
	colours := []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9"}
	markers := []string{
		"M-1 -1H1V1H-1Z",
		"M0 -1.4L1.4 0L0 1.4L-1.4 0Z",
		"M0 -1.3L1.2 0.9H-1.2Z",
		"M-1 0A1 1 0 1 0 1 0A1 1 0 1 0 -1 0Z",
		"M0 1.3L1.2 -0.9H-1.2Z",
	}
	return colours[line%len(colours)], markers[line%len(markers)]
}

// axis is a logarithmic one between numbers that begin with 1, 2 or 5.
type axis struct {
	from, to float64 // values
	at, end  float64 // and where they are, in pixels
	ticks    []tick
}

type tick struct {
	value    float64
	labelled bool
}

func (a *axis) place(value float64) float64 {
	return a.at + (a.end-a.at)*math.Log(value/a.from)/math.Log(a.to/a.from)
}

// newAxis spans the values, of which there may be none.
func newAxis(values []float64, at, end float64) axis {
	low, high := 1.0, 1.0
	for i, value := range values {
		if i == 0 || value < low {
			low = value
		}
		if i == 0 || value > high {
			high = value
		}
	}
	a := axis{from: roundDown(low), to: roundUp(high), at: at, end: end}
	if a.to < 5*a.from { // a flat line is no cliff
		a.from, a.to = roundDown(a.from/1.5), roundUp(a.to*1.5)
	}
	decades := math.Log10(a.to / a.from)
	for exponent := math.Floor(math.Log10(a.from)); exponent <= math.Ceil(math.Log10(a.to)); exponent++ {
		for digit := 1.0; digit < 10; digit++ {
			value := digit * math.Pow(10, exponent)
			if value < a.from*0.999 || value > a.to*1.001 {
				continue
			}
			atEnd := value < a.from*1.001 || value > a.to*0.999
			labelled := digit == 1 || atEnd || decades <= 3 && (digit == 2 || digit == 5)
			if labelled || decades <= 5 {
				a.ticks = append(a.ticks, tick{value, labelled})
			}
		}
	}
	return a
}

// rounding is how far, as a share, a number that is round already may be off.
const rounding = 1e-9

// roundDown finds the next smaller number that begins with 1, 2 or 5.
func roundDown(value float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(value)))
	for _, step := range []float64{5, 2} {
		if step*decade <= value*(1+rounding) {
			return step * decade
		}
	}
	return decade
}

// roundUp finds the next larger one.
func roundUp(value float64) float64 {
	decade := math.Pow(10, math.Floor(math.Log10(value)))
	for _, step := range []float64{1, 2, 5} {
		if step*decade >= value*(1-rounding) {
			return step * decade
		}
	}
	return 10 * decade
}

// WriteSVG draws the curve, with up to two lines below its title. Points that have no place on logarithmic axes, at or
// below 0, are left out.
func (c Curve) WriteSVG(w io.Writer, subtitles ...string) error {
	var xs, ys []float64
	for _, line := range c.Lines {
		for _, p := range line.drawn() {
			xs, ys = append(xs, p.X), append(ys, p.Y)
		}
	}
	x := newAxis(xs, plotLeft, plotWidth-plotRight)
	y := newAxis(ys, plotHeight-plotBottom, plotTop)
	p := &plot{}
	p.head(c.Title, subtitles)
	p.xAxis(x, c.X)
	p.yAxis(y, c.Y)
	for i, line := range c.Lines {
		p.line(i, line.drawn(), x, y)
	}
	p.legend(c.Lines)
	p.printf("</svg>\n")
	_, err := w.Write(p.text.Bytes())
	return err
}

func (l Line) drawn() []Point {
	var points []Point
	for _, p := range l.Points {
		if p.X > 0 && p.Y > 0 { // not a NaN either
			points = append(points, p)
		}
	}
	return points
}

// plot is an SVG being written.
type plot struct {
	text bytes.Buffer
}

func (p *plot) printf(format string, args ...any) {
	fmt.Fprintf(&p.text, format, args...)
}

func (p *plot) words(x, y float64, attributes, text string) {
	p.printf("<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, attributes, html.EscapeString(text))
}

func (p *plot) head(title string, subtitles []string) {
	p.printf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]g" height="%[2]g" viewBox="0 0 %[1]g %[2]g" `+
		`font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" fill="#222">
<rect width="100%%" height="100%%" fill="#fff"/>
`, plotWidth, plotHeight)
	p.words(plotLeft, 22, `font-size="17" font-weight="bold"`, title)
	for i, line := range subtitles {
		p.words(plotLeft, 40+15*float64(i), `font-size="12" fill="#666"`, line)
	}
}

func (p *plot) xAxis(x axis, title string) {
	bottom := plotHeight - plotBottom
	for _, t := range x.ticks {
		at := x.place(t.value)
		p.grid(at, bottom, at, plotTop, t.labelled)
		if t.labelled {
			p.words(at, bottom+18, `text-anchor="middle"`, tickLabel(t.value))
		}
	}
	p.printf("<path d=\"M%.1f %.1fH%.1f\" stroke=\"#444\"/>\n", x.at, bottom, x.end)
	p.words((x.at+x.end)/2, plotHeight-14, `text-anchor="middle"`, title)
}

func (p *plot) yAxis(y axis, title string) {
	for _, t := range y.ticks {
		at := y.place(t.value)
		p.grid(plotLeft, at, plotWidth-plotRight, at, t.labelled)
		if t.labelled {
			p.words(plotLeft-8, at+4.5, `text-anchor="end"`, tickLabel(t.value))
		}
	}
	p.printf("<path d=\"M%.1f %.1fV%.1f\" stroke=\"#444\"/>\n", plotLeft, y.at, y.end)
	middle := (y.at + y.end) / 2
	p.words(20, middle, fmt.Sprintf(`text-anchor="middle" transform="rotate(-90 20 %.1f)"`, middle), title)
}

func (p *plot) grid(x1, y1, x2, y2 float64, labelled bool) {
	colour := "#f2f2f2"
	if labelled {
		colour = "#d9d9d9"
	}
	p.printf("<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour)
}

func (p *plot) line(number int, points []Point, x, y axis) {
	colour, marker := looks(number)
	path := "M"
	for i, point := range points {
		if i > 0 {
			path += " "
		}
		path += fmt.Sprintf("%.1f %.1f", x.place(point.X), y.place(point.Y))
	}
	if len(points) > 1 {
		p.printf("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\"/>\n", path, colour)
	}
	for _, point := range points {
		p.marker(x.place(point.X), y.place(point.Y), colour, marker)
	}
}

func (p *plot) marker(x, y float64, colour, marker string) {
	p.printf("<path d=\"%s\" transform=\"translate(%.1f %.1f) scale(%g)\" fill=\"%s\" stroke=\"#fff\" stroke-width=\"0.3\"/>\n",
		marker, x, y, markerSize, colour)
}

// legend names the lines in one row above the plot.
func (p *plot) legend(lines []Line) {
	at := plotLeft
	for i, line := range lines {
		colour, marker := looks(i)
		p.printf("<path d=\"M%.1f %.1fh%g\" stroke=\"%s\" stroke-width=\"2\"/>\n", at, legendTop+8, legendSwatch, colour)
		p.marker(at+legendSwatch/2, legendTop+8, colour, marker)
		p.words(at+legendSwatch+6, legendTop+12.5, `font-size="13"`, line.Name)
		at += legendSwatch + 26 + characterWidth*float64(len(line.Name))
	}
}

// tickLabel is a short form of a number: "0.5", "200", "10k", "4M".
func tickLabel(value float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if value >= unit.size*0.999 {
			return strconv.FormatFloat(value/unit.size, 'g', 3, 64) + unit.name
		}
	}
	return strconv.FormatFloat(value, 'g', 3, 64)
}
