package domain

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"xen-backup/internal/exit"
	"xen-backup/internal/program"
)

// Control starts and stops one domain of this host, by the toolstack that it runs by.
type Control struct {
	name  string
	virsh *virsh // or
	xl    *xl
}

// NewControl returns the control of a domain that a toolstack knows by its name. uri is libvirt's; config is xl's
// configuration file of it, "" the usual one.
func NewControl(toolstack, name, uri, config string) (*Control, error) {
	if err := CheckNames(name); err != nil {
		return nil, err
	}
	if idForm().MatchString(name) || uuidForm().MatchString(name) { // which virsh would take for another one's
		return nil, exit.Fail(exit.Usage, "%s: a domain whose name is a number cannot be moved", name)
	}
	c := &Control{name: name}
	switch toolstack {
	case "virsh":
		c.virsh = newVirsh(uri)
	case "xl":
		c.xl = newXL(config)
	default:
		return nil, exit.Fail(exit.Internal, "toolstack %q", toolstack)
	}
	return c, nil
}

// commandLimit is how long a toolstack may take for one command.
const commandLimit = 5 * time.Minute

// do has the toolstack do something, which it is not killed for.
func (c *Control) do(limit time.Duration, args ...string) error {
	name := "xl"
	if c.virsh != nil {
		if name = "virsh"; c.virsh.URI != "" {
			args = append([]string{"--connect=" + c.virsh.URI}, args...)
		}
	}
	return program.Run(limit, io.Discard, name, args...)
}

// CheckStart refuses a domain that could not be started here again once it is shut off.
func (c *Control) CheckStart(ctx context.Context) error {
	if c.xl != nil {
		path := c.xl.configPath(c.name)
		text, err := os.ReadFile(path)
		if err == nil {
			var doc *Document
			if doc, err = readXLConfig(text); err == nil && doc.Domain.Name != c.name {
				err = exit.Fail(exit.Config, "it is the configuration of %s", doc.Domain.Name)
			}
		}
		if err != nil {
			return exit.Fail(exit.Config, "%s could not be started here again: %s: %w", c.name, path, exit.Cause(err))
		}
		return nil
	}
	persistent, err := c.info(ctx, "Persistent")
	if err == nil && persistent != "yes" {
		err = exit.Fail(exit.Config, "%s could not be started here again: libvirt has no definition of it, and forgets it when it is "+
			"shut off (virsh define)", c.name)
	}
	return err
}

// info asks libvirt for something of a domain.
func (c *Control) info(ctx context.Context, field string) (string, error) {
	text, err := c.virsh.run(ctx, "dominfo", "--domain="+c.name)
	return infoField(string(text), field), err
}

// Autostart reports whether libvirt starts it when this host is booted.
func (c *Control) Autostart(ctx context.Context) (bool, error) {
	if c.xl != nil {
		return false, nil
	}
	autostart, err := c.info(ctx, "Autostart")
	return autostart == "enable", err
}

// SetAutostart has libvirt do that, or not.
func (c *Control) SetAutostart(on bool) error {
	switch {
	case c.xl != nil:
		return nil
	case on:
		return c.do(commandLimit, "autostart", "--domain="+c.name)
	}
	return c.do(commandLimit, "autostart", "--disable", "--domain="+c.name)
}

// ShutDown asks the guest to shut down, which takes its time, or is not heard.
func (c *Control) ShutDown() error {
	if c.xl != nil {
		return c.do(commandLimit, "shutdown", "-F", c.name) // by ACPI if it has no driver for Xen's way
	}
	return c.do(commandLimit, "shutdown", "--domain="+c.name)
}

// Start starts it by its definition or configuration file.
func (c *Control) Start() error {
	if c.xl != nil {
		return c.do(commandLimit, "create", c.xl.configPath(c.name))
	}
	return c.do(commandLimit, "start", "--domain="+c.name)
}

// StartCommand is what an administrator types for that.
func (c *Control) StartCommand() string {
	if c.xl != nil {
		return "xl create " + c.xl.configPath(c.name)
	}
	return "virsh start " + c.name
}

// IsActive reports whether a domain is active here. An error says that it cannot be told, or may be other in a moment.
func (l *Locator) IsActive(ctx context.Context, name string) (active bool, err error) {
	word, err := activeWord(name, l.locateAll(ctx, []string{name})[0], false)
	return word == "yes", err
}

// XenAutostart returns the files by which xendomains starts a domain when this host is booted.
func XenAutostart(name string) (files []string) {
	for _, suffix := range []string{"", XL.suffix()} {
		path := filepath.Join("/etc/xen/auto", name+suffix)
		if _, err := os.Lstat(path); err == nil {
			files = append(files, path)
		}
	}
	return files
}
