// The subcommands of limn, one file each. A command gets the arguments behind its name (arguments[0] is the name itself) and
// returns the exit status: 0, 1 for a failure that was explained on standard error, 2 for wrong usage, 130 when interrupted.
#ifndef LIMN_CLI_COMMANDS_H
#define LIMN_CLI_COMMANDS_H

struct command {
    const char *name;
    const char *
        summary; // one line for `limn --help`; NULL hides a command that only limn itself or a developer runs
    int (*run)(int count, char **arguments);
};

int command_generate(int count, char **arguments); // also `limn edit`
int command_pull(int count, char **arguments);
int command_serve(int count, char **arguments);
int command_config(int count, char **arguments);
int command_key(int count, char **arguments);
int command_worker(int count, char **arguments);
int command_inspect(int count, char **arguments);
int command_convert(int count, char **arguments);
int command_plan(int count, char **arguments);
int command_bench(int count, char **arguments);
int command_dump(int count, char **arguments);
int command_tokenize(int count, char **arguments);

#endif
