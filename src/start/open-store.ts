/** Opens DuckDB, and sets its WAL aside if it cannot be replayed. */
import type { Config } from "../config/config.ts";
import { GatewayError, messageOf } from "../errors.ts";
import type { Journal } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import { workerUrl } from "../native/worker-url.ts";
import type { StoreOptions } from "../store/protocol.ts";
import { Store } from "../store/store.ts";
import { type Home, temporaryShare } from "./home.ts";

const RETRY_MS = 500;

/**
 * Opens DuckDB. The journal counts each attempt before it begins, because replaying a broken WAL can abort the process. After two
 * attempts in a row that ended so, or with an error about the WAL, the WAL is set aside; the journal refills what it held. Any other
 * failure is no reason to touch the WAL, and another attempt would fail as well.
 * @throws GatewayError
 */
export async function openStore(
  config: Pick<Config, "dbPath" | "tempLimitBytes" | "memoryLimitBytes">,
  home: Home,
  journal: Journal,
  log: Log,
  open: (options: StoreOptions) => Promise<Store> = Store.open,
): Promise<Store> {
  for (;;) {
    const quarantine = journal.openAttempts() >= 2;
    if (quarantine) {
      log(
        "error",
        `store ${home.databasePath}: its WAL could not be replayed twice; it is set aside and refilled`,
      );
    }
    journal.raiseOpenAttempts();
    try {
      const store = await open({
        databasePath: home.databasePath,
        journalPath: home.journalPath,
        journalId: journal.journalId,
        memoryLimitBytes: config.memoryLimitBytes,
        tempFolder: home.tempFolder,
        ephemeral: temporaryShare(config),
        workerUrl: workerUrl("store"),
        quarantine,
        pruned: journal.pruned(),
        onNotice: (message) => log("warn", message),
      });
      journal.clearOpenAttempts();
      return store;
    } catch (error) {
      const unreadable = error instanceof GatewayError && error.code === "store_log_unreadable";
      if (!unreadable) journal.clearOpenAttempts();
      if (!unreadable || quarantine) throw error;
      log("error", `${messageOf(error)}; trying again`);
      await Bun.sleep(RETRY_MS);
    }
  }
}
