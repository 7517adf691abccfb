package cli

import (
	"os"
	"os/signal"
	"syscall"

	"xen-backup/internal/durable"
	"xen-backup/internal/exit"
)

// handleSignals makes a deadly signal clean up and then end the process as that
// signal would have, so that a parent sees the true cause. SIGPIPE becomes the
// error EPIPE of the write, which takes the ordinary way out. SIGUSR1 asks for
// progress (see StartProgress) and is ignored where there is none yet.
func handleSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGUSR1)
	signals := make(chan os.Signal, 1)
	for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT} {
		if !signal.Ignored(s) { // nohup and background jobs of a shell
			signal.Notify(signals, s)
		}
	}
	go func() {
		s := <-signals
		durable.UndoAll()
		if s == syscall.SIGQUIT {
			s = syscall.SIGTERM // that of the runtime prints all stacks
		}
		signal.Reset(s)
		syscall.Kill(syscall.Getpid(), s.(syscall.Signal))
	}()
}

// end ends the process with an error that is not one of the run itself, whatever that
// is doing: what a signal would undo is undone.
func (e *Env) end(err error) {
	durable.UndoAll()
	e.say(levelErr, err.Error())
	os.Exit(exit.StatusOf(err))
}
