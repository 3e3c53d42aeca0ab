/** What the command line is read from. Everything comes in as an argument, so that tests own it. */
export interface ConfigSources {
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Text of `.env` in the working folder; null if there is none. */
  readonly dotenv: string | null;
  readonly workingDir: string;
  /** Folder of the executable, for the default of --models-dir. */
  readonly executableDir: string;
  readonly platform: string;
  /** Whether the variable HOST is the name of a host that can be found. Shells and compilers set it to other things. */
  readonly hostIsFound: boolean;
  readonly stdoutIsTty: boolean;
  readonly stderrIsTty: boolean;
  readonly readFile: (path: string) => string;
}
