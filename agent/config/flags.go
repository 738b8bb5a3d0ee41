package config

import (
	"github.com/spf13/pflag"
)

// Flags adds the flags of the agent to fs. They have no defaults of their own:
// what is not given does not count.
func Flags(fs *pflag.FlagSet) {
	fs.String("config", "", "YAML file with settings")
	fs.StringArray("registry", nil, "registry as [name=]URL, repeatable; the first without a name is \"main\":\n"+
		"zookeeper://h1:2181,h2:2181/root, nacos://h1:8848 or local:///directory")
	for _, s := range settings() {
		if s.flag != "" {
			fs.String(s.flag, "", s.help)
		}
	}
}

// Given are the flags that were set, as Input and Read take them.
func Given(fs *pflag.FlagSet) map[string][]string {
	given := map[string][]string{}
	fs.Visit(func(f *pflag.Flag) {
		if list, ok := f.Value.(pflag.SliceValue); ok {
			given[f.Name] = list.GetSlice()
			return
		}
		given[f.Name] = []string{f.Value.String()}
	})
	return given
}
