package cli

import (
	"errors"
	"regexp"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/spf13/cobra"
	"google.golang.org/genproto/googleapis/rpc/errdetails"

	catalogue "github.com/lockstep-fleet/lockstep/docs/errors"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// hinted makes every command below c end an error that is in the catalogue with
// how to read on.
func hinted(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			err := run(c, args)
			// A newer server may know errors that this build cannot explain.
			if page, known := catalogue.Lookup(catalogued(err)); known {
				return &hint{err, page.ID}
			}
			return err
		}
	}
	for _, child := range c.Commands() {
		hinted(child)
	}
}

// hint is an error that says where more of it is told.
type hint struct {
	err error
	id  string
}

func (h *hint) Error() string { return h.err.Error() + "\n(lockstep explain " + h.id + ")" }
func (h *hint) Unwrap() error { return h.err }

// catalogued returns the id of an error, or "": its own, the one a server sent
// with it, or the one its text begins with.
func catalogued(err error) string {
	if err == nil {
		return ""
	}
	if id := errs.IDOf(err); id != "" {
		return id
	}
	e, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return ""
	}
	if id := reason(e); id != "" {
		return id
	}
	return regexp.MustCompile(`^LS-[A-Z]{3}-[0-9]{3}\b`).FindString(e.Message())
}

// reason is the catalogue id of a server's error, which travels as the reason of
// a google.rpc.ErrorInfo.
func reason(e *connect.Error) string {
	for _, detail := range e.Details() {
		message, err := connectproto.UnmarshalErrorDetail(detail)
		if err != nil {
			continue // a detail that this build does not know says nothing here
		}
		if info, ok := message.(*errdetails.ErrorInfo); ok && info.GetReason() != "" {
			return clean(info.GetReason())
		}
	}
	return ""
}
