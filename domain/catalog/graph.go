package catalog

import (
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Graph shows how the vendor's releases moved from one version set to the next.
type Graph struct {
	// Nodes are in the order in which the entries name them first.
	Nodes []Node
	// Edges are by chart, in the order of its versions.
	Edges []Edge
}

// Node is a version set and every release that carries exactly it.
type Node struct {
	Versions fleet.VersionSet
	Releases []fleet.ReleaseID
	// Status is Available while one of the releases is, Blocked when people blocked
	// every one of them, else Withdrawn.
	Status Status
}

// Edge is a step of one chart from one version set to another.
type Edge struct {
	Chart string
	// From and To are indices of Graph.Nodes.
	From, To int
	// Release is the one that made the step.
	Release fleet.ReleaseID
	// Moves are by line; those that go down are what took versions back.
	Moves []LineMove
}

// LineMove is what a step does to one line. From is empty when the line comes
// with the step, To when it goes with it.
type LineMove struct {
	Line      fleet.Line
	From, To  string
	Direction Direction
}

// Direction is where a line moves.
type Direction string

// Every value Direction takes.
const (
	DirectionUp   Direction = "up"
	DirectionDown Direction = "down"
	// DirectionOther: the line comes or goes, or its versions cannot be compared.
	DirectionOther Direction = "other"
)

// Directions lists every direction in a fixed order.
func Directions() []Direction { return []Direction{DirectionUp, DirectionDown, DirectionOther} }

// GraphOf draws entries as State.Entries returns them. Sets of images, and
// releases without a place in the order of their chart, have no edges.
func GraphOf(entries []Entry) Graph {
	var g Graph
	r := make(reader)
	places := make(map[string]int)
	available := make(map[int]bool)
	blocked := make(map[int]bool) // every release so far
	chart, at := "", -1
	for _, e := range entries {
		key := r.setKey(e.Release.Versions)
		place, known := places[key]
		if !known {
			place = len(g.Nodes)
			places[key], blocked[place] = place, true
			g.Nodes = append(g.Nodes, Node{Versions: e.Release.Versions})
		}
		g.Nodes[place].Releases = append(g.Nodes[place].Releases, e.Release.ID)
		available[place] = available[place] || e.Status == Available
		blocked[place] = blocked[place] && e.Status == Blocked
		if e.Release.Chart == "" || !r.parse(e.Release.ChartVersion).Comparable() {
			continue
		}
		if e.Release.Chart == chart && at != place {
			g.Edges = append(g.Edges, Edge{Chart: chart, From: at, To: place, Release: e.Release.ID,
				Moves: r.moves(g.Nodes[at].Versions, g.Nodes[place].Versions)})
		}
		chart, at = e.Release.Chart, place
	}
	for i := range g.Nodes {
		switch {
		case available[i]:
			g.Nodes[i].Status = Available
		case blocked[i]:
			g.Nodes[i].Status = Blocked
		default:
			g.Nodes[i].Status = Withdrawn
		}
	}
	return g
}

// setKey is the same for two version sets exactly when every line has the same
// version in both.
func (r reader) setKey(set fleet.VersionSet) string {
	var b strings.Builder
	for _, line := range slices.Sorted(maps.Keys(set)) {
		b.WriteString(string(line) + "\x00" + r.parse(set[line]).key + "\x00")
	}
	return b.String()
}

func (r reader) moves(from, to fleet.VersionSet) []LineMove {
	lines := make(fleet.VersionSet, len(from)+len(to))
	maps.Copy(lines, from)
	maps.Copy(lines, to)
	var moves []LineMove
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		a, b := r.parse(from[line]), r.parse(to[line])
		if a.key == b.key {
			continue
		}
		direction := DirectionOther
		switch order, ok := a.Compare(b.Version); {
		case ok && order < 0:
			direction = DirectionUp
		case ok:
			direction = DirectionDown
		}
		moves = append(moves, LineMove{Line: line, From: from[line], To: to[line], Direction: direction})
	}
	return moves
}
