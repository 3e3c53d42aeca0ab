/** The text of `--help`. */
import { OPTIONS } from "./options.ts";

const USAGE_LINES = [
  "one_file_gateway [options]                        run the gateway, with its dashboard if there is a terminal",
  "one_file_gateway demo [options]                   run it on bundled messages in Portuguese",
  "one_file_gateway pull-model [NAME] [--from DIR]   get a local embedding model, or install one from a folder",
  "one_file_gateway ring stat [--json]               look at the ring: header, fill, heartbeat, models",
  "one_file_gateway ring tail [-n N] [--no-follow] [--json]   show its newest 10 (N) frames, then each new one until Ctrl-C",
  "one_file_gateway ring verify [--json]             check every frame in it; exit code 1 if one is damaged",
  "one_file_gateway --help | --version",
];

export function helpText(version: string): string {
  const lines = [
    `one_file_gateway ${version}: webhooks in, tensors out`,
    "",
    ...USAGE_LINES,
    "",
    "Options (flag, environment, default):",
  ];
  for (const option of OPTIONS) {
    const head = option.metavar === null ? option.flag : `${option.flag} ${option.metavar}`;
    const names = [option.env, option.defaultText === "" ? null : `default ${option.defaultText}`].filter(
      (part) => part !== null,
    );
    lines.push(`  ${head}${names.length === 0 ? "" : `  [${names.join("; ")}]`}`, `      ${option.help}`);
  }
  lines.push(
    "",
    "A .env file in the working folder is read. Flags win over the environment, the environment over .env.",
    "Exit codes: 0 after q, SIGTERM or SIGINT; 1 after a failure (ring verify: damage); 2 for wrong usage.",
  );
  return `${lines.join("\n")}\n`;
}
