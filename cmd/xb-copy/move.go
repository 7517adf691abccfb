package main

import (
	"cmp"
	"context"
	"time"

	"xen-backup/internal/cli"
	"xen-backup/internal/conf"
	"xen-backup/internal/domain"
	"xen-backup/internal/exit"
	"xen-backup/internal/lvm"
	"xen-backup/internal/move"
	"xen-backup/internal/state"
	"xen-backup/internal/text"
)

// moveOptions are those of --move alone.
type moveOptions struct {
	asked      bool
	confs, uri string
	patience   time.Duration
	memory     bool
	undo       bool
	finish     bool
	otherIsOff bool
}

func (o *moveOptions) define(f *cli.Flags) {
	f.Bool(&o.asked, "move")
	f.Path(&o.confs, "confs")
	f.String(&o.uri, "uri")
	f.Bool(&o.memory, "with-memory")
	f.Bool(&o.undo, "undo")
	f.Bool(&o.finish, "finish")
	f.Bool(&o.otherIsOff, "the-other-host-is-off")
	o.patience = 5 * time.Minute
	f.Func("for", func(s string) (err error) { o.patience, err = text.ParseAge(s); return err })
}

func (o *options) checkMove(operands int) error {
	if o.DomU == "" || o.To == "" || o.move.confs == "" || operands > 0 {
		return exit.Fail(exit.Usage, "--move needs --domu DOMU, --to DOM0 and --confs DIR, and no operands")
	}
	if o.move.undo && o.move.finish || o.move.otherIsOff && !o.move.undo {
		return exit.Fail(exit.Usage, "want --undo or --finish; and --the-other-host-is-off with --undo alone")
	}
	return o.flags.Only("--move", "--domu", "--to", "--confs", "--for", "--with-memory", "--undo", "--finish",
		"--the-other-host-is-off", "--uri", "--toolstack", "--connect-timeout",
		"--state-dir")
}

// moveDomU is --move.
func moveDomU(env *cli.Env, o *options, _ []string) error {
	ctx := context.Background()
	confs, err := conf.Dir{Path: o.move.confs}.Read(ctx, []string{o.DomU}, confWords{env})
	if err != nil {
		return err
	}
	places, err := state.Find(o.dir)
	if err != nil {
		return err
	}
	config := confs[0].XLConfig()
	toolstacks, err := domain.Installed(cmp.Or(o.Toolstack, "auto"), o.move.uri, config)
	if err != nil {
		return err
	}
	judge := domain.NewJudge(ctx, o.move.uri, nil, lvm.Hidden())
	return move.Move(ctx, move.Options{
		DomU: o.DomU, To: o.To, State: places.Dir, URI: o.move.uri, Config: config,
		Locator:        &domain.Locator{Toolstacks: toolstacks, InUse: judge.InUse, Pause: time.Second},
		ConnectTimeout: seconds(o.timeout), Patience: o.move.patience,
		Memory: o.move.memory, Undo: o.move.undo, Finish: o.move.finish, OtherIsOff: o.move.otherIsOff,
	}, log{env})
}

// confWords says what is wrong with a conf file.
type confWords struct{ *cli.Env }

func (w confWords) Lost(err error) { w.Error("%v", err) }
