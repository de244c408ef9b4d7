package cli_test

import "testing"

func TestFreeze(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	f.run(t, "rollout", "freeze").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "rollout", "unfreeze", "--reason", "over").wants(t, 0, "Nothing was frozen.")
	got := f.run(t, "rollout", "freeze", "--reason", "the identity provider is down")
	got.wants(t, 0, "All rollouts are frozen since ")
	got.wants(t, 0, " by ada: the identity provider is down.")
	if got.out != "r1\nr2\n" {
		t.Errorf("printed %q", got.out)
	}
	f.run(t, "rollout", "list").wants(t, 0, " by ada: the identity provider is down.")
	got = f.run(t, "rollout", "unfreeze", "--reason", "it is back")
	got.wants(t, 0, "Rollouts may start and go on.")
	if got.out != "r1\n" {
		t.Errorf("printed %q", got.out)
	}
}
