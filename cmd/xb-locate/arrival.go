package main

import (
	"context"

	"xen-backup/internal/allow"
	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/move"
	"xen-backup/internal/state"
)

// arrive does here what the host asks for that a DomU comes from with its memory.
func arrive(ctx context.Context, env *cli.Env, o *options, operands []string) error {
	name, l, _, err := ask(ctx, o, operands)
	if err == nil && state.CheckSet(o.moving) != nil {
		err = exit.Fail(exit.Usage, "--arrival needs --moving ID")
	}
	if err == nil {
		err = o.allowed.May(allow.Memory, name)
	}
	if err != nil {
		return err
	}
	a := move.Arrival{DomU: name, ID: o.moving, Peer: o.peer, State: l.Moves.Dir, Locator: l, URI: o.uri}
	switch o.arrival {
	case "keep":
		if o.size == 0 {
			return exit.Fail(exit.Usage, "--arrival keep needs --size N")
		}
		return a.Keep(ctx, env.Stdin, o.size)
	case "restore":
		if o.kept == "" {
			return exit.Fail(exit.Usage, "--arrival restore needs --document-file FILE")
		}
		return a.Restore(ctx, o.kept)
	case "resume":
		return a.Resume(ctx)
	case "destroy":
		return a.Destroy(ctx)
	}
	word, err := a.Tell(ctx)
	if err != nil {
		return err
	}
	return env.Print(word + "\n")
}
