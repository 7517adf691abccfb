package main

import (
	"context"
	"slices"

	"xen-backup/internal/cli"
)

type answerer func(ctx context.Context, env *cli.Env, o *options, operands []string) error

// question returns the option that says what is asked, those that go with it, and who answers.
func (o *options) question() (option string, allowed []string, answer answerer) {
	toolstacks := []string{"-c", "--connect", "--toolstack"}
	gate := []string{"--allow", "--peer"}
	list := []string{"-c", "--connect", "--exclude", "--all", "--json"}
	copied := []string{"--xml", "--map", "--document-file", "--memory"}
	switch {
	case o.active:
		return "--active", slices.Concat(toolstacks, gate, []string{"--final", "--moving"}), tell
	case o.known:
		return "--known", slices.Concat(toolstacks, gate, []string{"--xl-config"}), tell
	case o.stuck:
		return "--stuck", toolstacks, tellStuck
	case o.copy:
		return "--copy", append(toolstacks, "--exclude", "--note", "--xl-config", "--document-file", "--bundle", "--final",
			"--dom0s", "--rules", "--local"), copyDisks
	case o.store != "":
		return "--store", append(gate, "-c", "--connect", "--format", "--map", "--drop", "--set", "--taken", "--state-dir"),
			storeDocument
	case o.arrival != "":
		return "--arrival", slices.Concat(toolstacks, gate, []string{"--moving", "--size", "--document-file"}), arrive
	case o.may != "":
		return "--may", append(gate, "--size"), tellWhetherMay
	case o.plan:
		return "--plan", append(toolstacks, "--confs", "--settings", "--disks", "--gate-conf", "--local", "--state-dir"), plan
	case o.copyAs != "" && o.try:
		return "--try", append(copied, "--copy-as", "-c", "--connect", "--for", "--pattern", "--evidence"), copyDocument
	case o.copyAs != "":
		return "--copy-as", copied, copyDocument
	case o.nowhere:
		return "--nowhere", append(toolstacks, "--confs", "--dom0s", "--local", "--others-are-off", "--to-be-moved", "--moving", "--connect-timeout"), nowhere
	case o.check:
		return "--check-document", []string{"-c", "--connect", "--document-file", "--trust-document", "--dry-run", "--at", "--at-point", "--state-dir", "--for",
			"--pattern", "--memory"}, checkDocument
	case o.still != "":
		return "--still", append(toolstacks, "--exclude"), tellStill
	case o.xml != "":
		return "--xml", list, listDocument
	}
	return "DOMAIN", append(list, "--toolstack", "--note"), locate
}
