package gatefile

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/checker"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/env"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Condition says whether a house rule holds over what the checks of a gate say.
// The error names the figure that is not known; where the rest of the condition
// decides by itself, there is none.
type Condition func(results []gate.Result) (bool, error)

// Compile makes a rule ready to be asked, as often and at as many places at once
// as wanted. The error says where in the rule's text it is wrong.
func Compile(r gate.Rule) (Condition, error) {
	l, err := newLanguage()
	if err != nil {
		return nil, err
	}
	_, condition, slips := l.compile(r)
	if len(slips) > 0 {
		s := slips[0]
		return nil, errs.New(errs.Invalid, "LS-GAT-013", "house rule %s cannot be used: line %d, column %d: %s", r.Name, s.line, s.column, s.text)
	}
	return condition, nil
}

const (
	// longest is how many letters a condition may have: people are to understand it.
	longest = 2000
	// costliest is what asking a condition once may cost, in steps of the language. One
	// without loops costs about as much as it has words, so few come near.
	costliest = 500
)

// language is the part of the Common Expression Language in which rules are written:
// its comparisons, its arithmetic, its logic and has(). It has no loops, no clock
// and no fractions, so a rule comes out the same on any machine.
type language struct {
	env *cel.Env
}

// verbs are the operators of the language, by the names that the library gives them.
func verbs() []string {
	return []string{
		operators.Conditional, operators.LogicalAnd, operators.LogicalOr, operators.LogicalNot,
		operators.Equals, operators.NotEquals, operators.Less, operators.LessEquals, operators.Greater, operators.GreaterEquals,
		operators.Add, operators.Subtract, operators.Multiply, operators.Divide, operators.Modulo, operators.Negate, operators.In,
	}
}

func newLanguage() (*language, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, fmt.Errorf("set up the language of house rules: %w", err)
	}
	subset := env.NewLibrarySubset().AddIncludedMacros(operators.Has)
	for _, verb := range verbs() {
		subset.IncludeFunctions = append(subset.IncludeFunctions, &env.Function{Name: verb})
	}
	options := []cel.EnvOption{cel.StdLib(cel.StdLibSubset(subset)), cel.CustomTypeProvider(&provider{registry})}
	for _, name := range gate.CheckNames() {
		options = append(options, cel.Variable(string(name), types.NewObjectType(typePrefix+string(name))))
	}
	e, err := cel.NewCustomEnv(options...)
	if err != nil {
		return nil, fmt.Errorf("set up the language of house rules: %w", err)
	}
	return &language{e}, nil
}

// verdictField is what a check says, beside its figures.
const verdictField = "verdict"

// typePrefix begins the name of each check's type.
const typePrefix = "check."

// provider tells the language which figures a check has and reads them.
type provider struct {
	types.Provider
}

// FindStructType finds the type of a check.
func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if known(checkOf(name)) {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

// FindStructFieldType finds a figure of a check.
func (p *provider) FindStructFieldType(structType, field string) (*types.FieldType, bool) {
	name := checkOf(structType)
	if !known(name) {
		return p.Provider.FindStructFieldType(structType, field)
	}
	if field == verdictField {
		return &types.FieldType{
			Type:  types.StringType,
			IsSet: func(target any) bool { return said(target).Verdict != "" },
			GetFrom: func(target any) (any, error) {
				if v := said(target).Verdict; v != "" {
					return string(v), nil
				}
				return nil, fmt.Errorf("%s.%s is not known", name, field)
			},
		}, true
	}
	if !slices.Contains(gate.Figures()[name], field) {
		return nil, false
	}
	return &types.FieldType{
		Type:  types.IntType,
		IsSet: func(target any) bool { _, ok := said(target).Figures[field]; return ok },
		GetFrom: func(target any) (any, error) {
			if v, ok := said(target).Figures[field]; ok {
				return v, nil
			}
			return nil, fmt.Errorf("%s.%s is not known", name, field)
		},
	}, true
}

func checkOf(structType string) gate.CheckName {
	name, ours := strings.CutPrefix(structType, typePrefix)
	if !ours {
		return ""
	}
	return gate.CheckName(name)
}

func known(name gate.CheckName) bool { return slices.Contains(gate.CheckNames(), name) }

// said is what a check said, nothing for one that was not looked at.
func said(target any) gate.Result {
	r, _ := target.(gate.Result)
	return r
}

// slip is one thing wrong with a condition; lines and columns count from 1, in the
// condition's own text.
type slip struct {
	line, column int
	text         string
}

// compiled is what is known of a condition besides how to ask it.
type compiled struct {
	text  string // with as much space and as many brackets as it needs
	about []mention
}

// mention is a check that a condition asks, and where.
type mention struct {
	name         gate.CheckName
	line, column int
}

// compile reads a rule's condition and says all that is wrong with it.
func (l *language) compile(r gate.Rule) (compiled, Condition, []slip) {
	if n := utf8.RuneCountInString(r.When); n > longest {
		return compiled{}, nil, []slip{{1, 1, fmt.Sprintf("the condition has %d letters and may have %d; part it into several rules", n, longest)}}
	}
	parsed, issues := l.env.Parse(r.When)
	if err := issues.Err(); err != nil {
		// What follows the first is mostly confusion about the first.
		return compiled{}, nil, slips(issues)[:1]
	}
	root := parsed.NativeRep().Expr()
	w := &walk{info: parsed.NativeRep().SourceInfo()}
	w.expression(root)
	if len(w.slips) > 0 {
		return compiled{}, nil, w.slips
	}
	typed, issues := l.env.Check(parsed)
	if err := issues.Err(); err != nil {
		return compiled{}, nil, slips(issues)
	}
	if t := typed.OutputType(); !t.IsExactType(types.BoolType) {
		return compiled{}, nil, []slip{{1, 1, "the condition is " + noun(t.String()) + "; it has to be true or false, such as sessions.new_failed > 3"}}
	}
	if cost, err := l.env.EstimateCost(typed, unestimated{}); err != nil || cost.Max > costliest {
		return compiled{}, nil, []slip{{1, 1, "the condition takes too long to ask; part it into several rules"}}
	}
	program, err := l.env.Program(typed, cel.CostLimit(costliest))
	if err != nil {
		return compiled{}, nil, []slip{{1, 1, err.Error()}}
	}
	return compiled{infix(root, 0), w.mentions}, asking(r.Name, program), nil
}

// unestimated leaves every estimate to the language.
type unestimated struct{}

func (unestimated) EstimateSize(checker.AstNode) *checker.SizeEstimate { return nil }
func (unestimated) EstimateCallCost(_, _ string, _ *checker.AstNode, _ []checker.AstNode) *checker.CallEstimate {
	return nil
}

func asking(name string, program cel.Program) Condition {
	return func(results []gate.Result) (bool, error) {
		vars := make(map[string]any, len(gate.CheckNames()))
		for _, check := range gate.CheckNames() {
			vars[string(check)] = gate.Result{Check: check}
		}
		for _, r := range results {
			vars[string(r.Check)] = r
		}
		out, _, err := program.Eval(vars)
		if err != nil {
			return false, errs.New(errs.Conflict, "LS-GAT-014", "house rule %s cannot be asked: %w", name, err)
		}
		holds, ok := out.Value().(bool)
		if !ok {
			return false, fmt.Errorf("house rule %s is neither true nor false", name)
		}
		return holds, nil
	}
}

// slips words what the language finds wrong.
func slips(issues *cel.Issues) []slip {
	out := make([]slip, 0, len(issues.Errors()))
	for _, e := range issues.Errors() {
		out = append(out, slip{max(e.Location.Line(), 1), max(e.Location.Column(), 0) + 1, worded(e.Message)})
	}
	return out
}

// worded says in the words of this product what the library says in its own.
func worded(message string) string {
	if m := regexp.MustCompile(`^found no matching overload for '(.*)' applied to '\((.*)\)'$`).FindStringSubmatch(message); m != nil {
		sign, _ := operators.FindReverse(m[1])
		if m[1] == operators.Conditional {
			sign = "? :"
		}
		var kinds []string
		for kind := range strings.SplitSeq(m[2], ", ") {
			kinds = append(kinds, noun(kind))
		}
		return fmt.Sprintf("%s does not go with %s", sign, strings.Join(kinds, " and "))
	}
	if m := regexp.MustCompile(`^expected type '(.*)' but found '(.*)'$`).FindStringSubmatch(message); m != nil {
		return fmt.Sprintf("%s stands here, where %s has to", noun(m[2]), noun(m[1]))
	}
	message, _, _ = strings.Cut(strings.TrimPrefix(message, "Syntax error: "), " expecting ")
	if m := regexp.MustCompile(`^(?:mismatched input|extraneous input|no viable alternative at input|token recognition error at:) (.*)$`).FindStringSubmatch(message); m != nil {
		if message = m[1] + " does not belong here"; strings.Contains(m[1], "<EOF>") {
			message = "it ends too early"
		}
	}
	return "the condition cannot be read: " + strings.Join(strings.Fields(message), " ")
}

// noun is what a type is called.
func noun(kind string) string {
	switch kind {
	case "int":
		return "a whole number"
	case "string":
		return "text"
	case "bool":
		return "true or false"
	}
	if strings.HasPrefix(kind, "list") {
		return "a list"
	}
	return kind
}

// walk finds out whom a condition asks, and what it asks that there is not.
type walk struct {
	info     *ast.SourceInfo
	slips    []slip
	mentions []mention
}

func (w *walk) slip(e ast.Expr, format string, args ...any) {
	at := w.info.GetStartLocation(e.ID())
	w.slips = append(w.slips, slip{max(at.Line(), 1), max(at.Column(), 0) + 1, fmt.Sprintf(format, args...)})
}

func (w *walk) expression(e ast.Expr) {
	switch e.Kind() {
	case ast.LiteralKind:
		switch literal(e).(type) {
		case int64, string, bool:
		default:
			w.slip(e, "only whole numbers; for more than 5 %% write 100 * failed > 5 * all")
		}
	case ast.IdentKind:
		if name := e.AsIdent(); known(gate.CheckName(name)) {
			w.slip(e, "ask something of %s: %s.%s or one of its figures", name, name, verdictField)
		} else {
			w.slip(e, "there is no check %s%s", name, suggestion(name, checkNames()))
		}
	case ast.SelectKind:
		w.figure(e)
	case ast.ListKind:
		for _, one := range e.AsList().Elements() {
			w.expression(one)
		}
	case ast.CallKind:
		w.call(e)
	default:
		w.slip(e, "a rule has numbers, texts in quotation marks, lists of them, and figures of checks; nothing else")
	}
}

// figure looks at what stands behind a point.
func (w *walk) figure(e ast.Expr) {
	s := e.AsSelect()
	of := s.Operand()
	if of.Kind() != ast.IdentKind {
		w.slip(e, "only a check has figures, such as inventory.missing")
		return
	}
	name := gate.CheckName(of.AsIdent())
	fields := append([]string{verdictField}, gate.Figures()[name]...)
	switch {
	case !known(name):
		w.slip(of, "there is no check %s%s", name, suggestion(string(name), checkNames()))
	case !slices.Contains(fields, s.FieldName()):
		w.slip(e, "%s has no figure %s%s", name, s.FieldName(), suggestion(s.FieldName(), fields))
	default:
		at := w.info.GetStartLocation(of.ID())
		w.mentions = append(w.mentions, mention{name, max(at.Line(), 1), max(at.Column(), 0) + 1})
	}
}

func (w *walk) call(e ast.Expr) {
	c := e.AsCall()
	if !slices.Contains(verbs(), c.FunctionName()) {
		name := c.FunctionName()
		if name == operators.Index {
			name = "[ ] behind a value"
		}
		w.slip(e, "there is no %s; a rule has comparisons, in, arithmetic, && || ! ?: and has()", name)
		return
	}
	for _, arg := range c.Args() {
		w.expression(arg)
	}
	switch c.FunctionName() {
	case operators.Equals, operators.NotEquals, operators.In:
		w.words(c.Args()[0], c.Args()[1])
		w.words(c.Args()[1], c.Args()[0])
	}
}

// words looks at what a verdict is compared with: a word that no verdict is would
// never hold, and nobody would notice.
func (w *walk) words(asked, with ast.Expr) {
	if asked.Kind() != ast.SelectKind || asked.AsSelect().FieldName() != verdictField {
		return
	}
	list := []ast.Expr{with}
	if with.Kind() == ast.ListKind {
		list = with.AsList().Elements()
	}
	for _, one := range list {
		if word, text := literal(one).(string); text && !slices.Contains(verdicts(), word) {
			w.slip(one, "there is no verdict %q%s", word, suggestion(word, verdicts()))
		}
	}
}

func literal(e ast.Expr) any {
	if e.Kind() != ast.LiteralKind {
		return nil
	}
	return e.AsLiteral().Value()
}

func verdicts() []string {
	return []string{string(gate.Pass), string(gate.Fail), string(gate.Hold), string(gate.Inconclusive), string(gate.Pending)}
}

func checkNames() []string {
	var out []string
	for _, name := range gate.CheckNames() {
		out = append(out, string(name))
	}
	return out
}

// suggestion names the word that was probably meant, or all of them when none is
// close.
func suggestion(got string, known []string) string {
	if near := meant(got, known); near != "" {
		return near
	}
	return "; known here: " + strings.Join(known, ", ")
}

// infix writes a condition with one space between words and no bracket more than it
// needs, so that the same condition has one text. The library's own text may change
// from version to version, and hashes are for ever. Around is how tightly the
// operator binds that it stands in, the loosest first.
func infix(e ast.Expr, around int) string {
	switch e.Kind() {
	case ast.LiteralKind:
		if word, ok := literal(e).(string); ok {
			return strconv.Quote(word)
		}
		return fmt.Sprint(literal(e))
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		text := infix(e.AsSelect().Operand(), 0) + "." + e.AsSelect().FieldName()
		if e.AsSelect().IsTestOnly() {
			return "has(" + text + ")"
		}
		return text
	case ast.ListKind:
		var parts []string
		for _, one := range e.AsList().Elements() {
			parts = append(parts, infix(one, 0))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	verb, args := e.AsCall().FunctionName(), e.AsCall().Args()
	tight := 9 - operators.Precedence(verb)
	sign, _ := operators.FindReverse(verb)
	var text string
	switch {
	case verb == operators.Conditional:
		text = infix(args[0], tight+1) + " ? " + infix(args[1], tight+1) + " : " + infix(args[2], tight)
	case len(args) == 1:
		// -(0) is not -0 and -(-x) not --x: the library reads the latter as 0 and x.
		if text = infix(args[0], tight+1); args[0].Kind() == ast.LiteralKind {
			text = "(" + text + ")"
		}
		text = sign + text
	case verb == operators.LogicalAnd || verb == operators.LogicalOr:
		// The library balances chains of these as it likes.
		text = infix(args[0], tight) + " " + sign + " " + infix(args[1], tight)
	default:
		text = infix(args[0], tight) + " " + sign + " " + infix(args[1], tight+1)
	}
	if tight < around {
		return "(" + text + ")"
	}
	return text
}
