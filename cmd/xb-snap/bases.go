package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"os"
	"strings"

	"xen-backup/internal/cli"
	"xen-backup/internal/exit"
	"xen-backup/internal/runs"
	"xen-backup/internal/snapshot"
	"xen-backup/internal/state"
	"xen-backup/internal/stream"
)

func keep(env *cli.Env, args []string) error {
	var dir, summary string
	var order snapshot.KeepOrder
	flags := snapFlags(env, &dir)
	flags.String(&order.Peer, "for")
	flags.Func("disk", cli.Disk(&order.Disk))
	flags.Path(&summary, "summary")
	flags.Func("taken", cli.Time(&order.Taken))
	flags.Bool(&order.Auto, "auto")
	limitFlag(flags, &order.Limit)
	flags.Func("basis", func(s string) (err error) { order.Basis, err = stream.ParseImage(s); return err })
	operands, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 || order.Peer == "" || order.Disk == "" || summary == "" || order.Taken.IsZero() {
		return exit.Fail(exit.Usage, "keep needs --for PEER, --disk DOMU/DISK, --summary FILE, --taken TIME and one SNAP")
	}
	sent, err := runs.ReadSent(summary)
	if err != nil {
		return err
	}
	order.Image, order.Read = sent.Image, sent.Source
	places, err := state.Find(dir)
	if err != nil {
		return err
	}
	order.State, order.Limit = places.Dir, cmp.Or(order.Limit, places.Limit, state.DefaultLimit)
	kept, err := snapshot.Keep(operands[0], order, env)
	if err == nil && !kept {
		err = exit.Answer(exit.No)
	}
	return err
}

func limitFlag(flags *cli.Flags, percent *int) {
	flags.Func("pool-limit", func(s string) (err error) { *percent, err = state.ParseLimit(s); return err })
}

// bases prints records for programs, one a line.
func bases(env *cli.Env, args []string) error {
	var dir, peer string
	flags := snapFlags(env, &dir)
	flags.String(&peer, "peer")
	operands, err := flags.ParsePaths(args)
	if err != nil {
		return err
	}
	if len(operands) != 1 || peer == "" {
		return exit.Fail(exit.Usage, "base needs --peer PEER and one SOURCE")
	}
	return withState(dir, func(dir state.Dir) error {
		usable, err := snapshot.Bases(operands[0], peer, dir, env)
		var lines strings.Builder
		for _, r := range usable {
			json.NewEncoder(&lines).Encode(r)
		}
		return errors.Join(err, env.Print(lines.String()))
	})
}

func prune(env *cli.Env, args []string) error {
	var dir, plan string
	var ofBases bool
	var peers snapshot.Peers
	flags := snapFlags(env, &dir)
	flags.Bool(&ofBases, "bases")
	flags.Func("peers", func(s string) error { peers.Known, peers.Names = true, strings.Fields(s); return nil })
	flags.Func("domus", func(s string) error {
		if peers.DomUs = strings.Fields(s); len(peers.DomUs) == 0 {
			return errors.New("it names none")
		}
		return nil
	})
	flags.Path(&plan, "plan")
	if err := noOperands(flags, args, "prune"); err != nil {
		return err
	}
	switch {
	case !ofBases && (peers.Known || len(peers.DomUs) > 0):
		return exit.Fail(exit.Usage, "--peers and --domus are for prune --bases")
	case ofBases && plan != "":
		return exit.Fail(exit.Usage, "--bases and --plan exclude each other")
	case !peers.Known && len(peers.DomUs) > 0:
		return exit.Fail(exit.Usage, "--domus says of which DomUs --peers is, which is missing")
	}
	var err error
	if peers.Plan, err = readPlan(plan); err != nil {
		return err
	}
	return withState(dir, func(dir state.Dir) error {
		switch {
		case ofBases:
			return snapshot.PruneBases(peers, dir, env, printer(env))
		case plan != "":
			return snapshot.PruneAll(peers, dir, env, printer(env))
		}
		return snapshot.Prune(dir, env, printer(env))
	})
}

// readPlan returns the peers of each DomU in what xb-locate --plan has printed. A DomU of which it tells none has a
// mistake in its conf file.
func readPlan(file string) (map[string][]string, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, exit.OpenFailed(err)
	}
	peers := make(map[string][]string)
	for line := range strings.Lines(string(text)) {
		columns := strings.Split(line, "\t")
		if len(columns) != 6 {
			return nil, exit.Fail(exit.BadStream, "%s is not what xb-locate --plan prints: %q", file, line)
		}
		if domu, others := columns[1], columns[4]; others != "-" {
			peers[domu] = append(peers[domu], strings.Fields(others)...)
		}
	}
	return peers, nil
}

func guard(env *cli.Env, args []string) error {
	var word, dir string
	var ofBases, once bool
	var limit int
	flags := snapFlags(env, &dir)
	flags.String(&word, "owner")
	flags.Bool(&ofBases, "bases")
	flags.Bool(&once, "once")
	limitFlag(flags, &limit)
	if err := noOperands(flags, args, "guard"); err != nil {
		return err
	}
	switch {
	case ofBases != once:
		return exit.Fail(exit.Usage, "--bases and --once go together")
	case ofBases && word != "":
		return exit.Fail(exit.Usage, "--bases and --owner exclude each other")
	case !ofBases && limit != 0:
		return exit.Fail(exit.Usage, "--pool-limit is for bases")
	}
	places, err := state.Find(dir)
	if err != nil {
		return err
	}
	if ofBases {
		return snapshot.GuardBases(cmp.Or(limit, places.Limit, state.DefaultLimit), places.Dir, env, printer(env))
	}
	owner, err := snapshot.FindOwner(word)
	if err != nil {
		return err
	}
	return snapshot.Guard(owner, places.Dir, env, printer(env))
}
