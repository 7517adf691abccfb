package main

import (
	"fmt"
	"strings"
)

// A conf file's settings are looked for, not run: completing a word must not do what a file says.
const (
	domuNames = `sed -n "s/^[[:space:]]*DOMU=[\"']\{0,1\}\([A-Za-z0-9_.+:@-]*\).*/\1/p" /etc/xen-backup.d/*.conf 2>/dev/null`
	hostNames = `sed -n "s/^[[:space:]]*DOM0S=[\"']\{0,1\}\([A-Za-z0-9_.+:@ -]*\).*/\1/p" /etc/xen-backup.d/*.conf 2>/dev/null`
)

func function(name string) string { return "_" + strings.NewReplacer("-", "_", ".", "_").Replace(name) }

// quote makes one word of it for a shell; that of fish takes no '\” but \'.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bash completes without bash-completion's own functions, which may not be installed.
func (c *command) bash() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# bash completion of %s
_xb_domus() { %s; }
_xb_hosts() { %s; }
%s() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
	COMPREPLY=()
	if [[ $word = '=' ]]; then
		word=''
	elif [[ $before = '=' ]]; then
		before=${COMP_WORDS[COMP_CWORD-2]}
	fi
	case $before in
`, c.name, domuNames, hostNames, function(c.name))
	for _, o := range c.options {
		switch {
		case o.argument == "":
		case o.optional: // --progress only, not a word that stands behind it
			if words := o.words(); words != nil {
				fmt.Fprintf(&b, "\t%s)\n\t\tif [[ ${COMP_WORDS[*]} = *\"$before =\"* ]]; then\n\t\t\tmapfile -t COMPREPLY < <(%s)\n\t\t\treturn\n\t\tfi\n\t\t;;\n",
					strings.Join(o.names, " | "), bashWords(strings.Join(words, " ")))
			}
		default:
			fmt.Fprintf(&b, "\t%s)\n%s\t\treturn\n\t\t;;\n", strings.Join(o.names, " | "), bashFill(o.words(), o.kind()))
		}
	}
	fmt.Fprintf(&b, "\tesac\n\tif [[ $word = -* ]]; then\n\t\tmapfile -t COMPREPLY < <(%s)\n", bashWords(strings.Join(c.spellings(), " ")))
	if len(c.subcommands) > 0 {
		fmt.Fprintf(&b, "\telif [[ \" ${COMP_WORDS[*]:1:COMP_CWORD-1} \" != *\\ [a-z]* ]]; then\n\t\tmapfile -t COMPREPLY < <(%s)\n",
			bashWords(strings.Join(c.subcommands, " ")))
	}
	fmt.Fprintf(&b, "\telse\n%s\tfi\n}\ncomplete -F %s %s\n", bashFill(nil, c.operands), function(c.name),
		strings.Join(append([]string{c.name}, c.aliases...), " "))
	return b.String()
}

func bashWords(words string) string { return "compgen -W " + quote(words) + ` -- "$word"` }

// bashFill returns the lines that fill COMPREPLY.
func bashFill(words []string, k kind) string {
	fill := func(source string) string { return "\t\tmapfile -t COMPREPLY < <(" + source + ")\n" }
	const names = "\t\tcompopt -o filenames\n"
	switch {
	case words != nil:
		return fill(bashWords(strings.Join(words, " ")))
	case k == files:
		return names + fill(`compgen -f -- "$word"`)
	case k == directories:
		return names + fill(`compgen -d -- "$word"`)
	case k == domus:
		return fill(`compgen -W "$(_xb_domus)" -- "$word"`)
	case k == hosts:
		return fill(`compgen -W "$(_xb_hosts)" -- "$word"`)
	}
	return ""
}

func (c *command) zsh() string {
	var b strings.Builder
	fmt.Fprintf(&b, "#compdef %s\n\n", strings.Join(append([]string{c.name}, c.aliases...), " "))
	fmt.Fprintf(&b, "_xb_domus() { compadd -- ${(f)\"$(%s)\"} }\n", domuNames)
	fmt.Fprintf(&b, "_xb_hosts() { compadd -- ${=\"$(%s)\"} }\n\n_arguments -s -S", hostNames)
	for _, o := range c.options {
		for _, name := range o.names {
			fmt.Fprintf(&b, " \\\n\t%s", quote(o.zshSpec(name)))
		}
	}
	if len(c.subcommands) > 0 {
		fmt.Fprintf(&b, " \\\n\t%s", quote("1:command:("+strings.Join(c.subcommands, " ")+")"))
	}
	fmt.Fprintf(&b, " \\\n\t%s\n", quote("*: :"+zshAction(nil, c.operands)))
	return b.String()
}

// zshSpec is one option in the words of _arguments: with (-b --block-size) both are gone once one is there.
func (o *option) zshSpec(name string) string {
	escape := strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`)
	spec := "(" + strings.Join(o.names, " ") + ")"
	if o.repeated {
		spec = "*"
	}
	spec += name
	switch {
	case o.argument == "":
	case o.optional:
		spec += "=-"
	case strings.HasPrefix(name, "--"):
		spec += "="
	default:
		spec += "+"
	}
	spec += "[" + escape.Replace(o.description) + "]"
	switch {
	case o.argument == "":
		return spec
	case o.optional:
		spec += ":"
	}
	return spec + ":" + escape.Replace(o.argument) + ":" + zshAction(o.words(), o.kind())
}

func zshAction(words []string, k kind) string {
	switch {
	case words != nil:
		return "(" + strings.Join(words, " ") + ")"
	case k == files:
		return "_files"
	case k == directories:
		return "_files -/"
	case k == domus:
		return "_xb_domus"
	case k == hosts:
		return "_xb_hosts"
	}
	return ""
}

func (c *command) fish() string {
	quote := func(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }
	var b strings.Builder
	fmt.Fprintf(&b, "# fish completion of %s\nfunction __xb_domus\n\t%s\nend\nfunction __xb_hosts\n\t%s | string split ' '\nend\n",
		c.name, domuNames, hostNames)
	for _, name := range append([]string{c.name}, c.aliases...) {
		if c.operands != files || len(c.subcommands) > 0 {
			fmt.Fprintf(&b, "complete -c %s -f\n", name)
		}
		switch {
		case len(c.subcommands) > 0:
			words := strings.Join(c.subcommands, " ")
			fmt.Fprintf(&b, "complete -c %s -n 'not __fish_seen_subcommand_from %s' -a %s\n", name, words, quote(words))
			fmt.Fprintf(&b, "complete -c %s -n '__fish_seen_subcommand_from %s' -F\n", name, words)
		case c.operands == domus:
			fmt.Fprintf(&b, "complete -c %s -a %s\n", name, "'(__xb_domus)'")
		}
		for _, o := range c.options {
			b.WriteString("complete -c " + name)
			for _, option := range o.names {
				if long, ok := strings.CutPrefix(option, "--"); ok {
					b.WriteString(" -l " + long)
				} else {
					b.WriteString(" -s " + option[1:])
				}
			}
			b.WriteString(o.fishArgument(quote))
			if o.description != "" {
				b.WriteString(" -d " + quote(o.description))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

func (o *option) fishArgument(quote func(string) string) string {
	switch words := o.words(); {
	case o.argument == "" || o.optional:
		return ""
	case words != nil:
		return " -x -a " + quote(strings.Join(words, " "))
	case o.kind() == files:
		return " -r -F"
	case o.kind() == directories:
		return " -x -a '(__fish_complete_directories)'"
	case o.kind() == domus:
		return " -x -a " + "'(__xb_domus)'"
	case o.kind() == hosts:
		return " -x -a '(__xb_hosts)'"
	}
	return " -x"
}
