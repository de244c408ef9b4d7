package cli

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	catalogue "github.com/lockstep-fleet/lockstep/docs/errors"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

func (s *shell) explainErrorCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "explain [ID]",
		Short: "Say what an error means and what to do",
		Long: `Say what an error means and what to do. Errors carry an id such as LS-ROL-001;
ls-rol-1 and ROL-001 name it as well. Without an id all errors are listed. No
server is asked.`,
		Example: "  lockstep explain LS-ROL-001",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one ID or none, got %d arguments\nRun '%s --help' for usage.", c.CommandPath(), len(args), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: completeErrorIDs,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return s.printPages(catalogue.All(), out)
			}
			page, err := findPage(args[0])
			if err != nil {
				return err
			}
			return s.printPage(page, out)
		},
	}
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

// findPage looks an id up as people write it.
func findPage(given string) (catalogue.Page, error) {
	id := strings.ToUpper(strings.TrimSpace(given))
	if parts := regexp.MustCompile(`^(?:LS[-_ ]?)?([A-Z]{3})[-_ ]?([0-9]{1,9}):?$`).FindStringSubmatch(id); parts != nil {
		if number, err := strconv.Atoi(parts[2]); err == nil {
			id = fmt.Sprintf("LS-%s-%03d", parts[1], number)
		}
	}
	if page, ok := catalogue.Lookup(id); ok {
		return page, nil
	}
	var known []string
	for _, p := range catalogue.All() {
		known = append(known, p.ID)
	}
	near := config.Nearest(id, known)
	if len(near) == 0 {
		return catalogue.Page{}, usage("%q is not the id of an error; write one such as LS-ROL-001, or nothing for a list", given)
	}
	return catalogue.Page{}, usage("there is no error %s; the nearest are %s; 'lockstep explain' lists all", id, strings.Join(near[:min(3, len(near))], ", "))
}

// explained is a page as scripts read it.
type explained struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Kind  string `json:"kind"`
	Text  string `json:"text"`
}

func explain(p catalogue.Page) explained { return explained{p.ID, p.Title, string(p.Kind), p.Text} }

func (s *shell) printPage(p catalogue.Page, out string) error {
	switch out {
	case "json", "yaml":
		return s.plainly(explain(p), out)
	case "name":
		return s.print(p.ID + "\n")
	}
	return s.print(p.Text)
}

func (s *shell) printPages(list []catalogue.Page, out string) error {
	t := &table{header: []string{"ID", "KIND", "WHAT IS WRONG"}}
	var all []explained
	var names strings.Builder
	for _, p := range list {
		t.add(p.ID, string(p.Kind), p.Title)
		all = append(all, explain(p))
		names.WriteString(p.ID + "\n")
	}
	switch out {
	case "json", "yaml":
		return s.plainly(all, out)
	case "name":
		return s.print(names.String())
	}
	return s.print(t.render(s.colour))
}

func completeErrorIDs(_ *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var list []cobra.Completion
	for _, p := range catalogue.All() {
		if len(args) == 0 && strings.HasPrefix(p.ID, strings.ToUpper(begun)) {
			list = append(list, cobra.CompletionWithDesc(p.ID, p.Title))
		}
	}
	return list, cobra.ShellCompDirectiveNoFileComp
}
