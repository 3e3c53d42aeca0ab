/** Opens DuckDB, and sets its WAL aside after two failures in a row. */
import type { Config } from "../config/config.ts";
import { type ErrorCode, GatewayError, messageOf } from "../errors.ts";
import type { Journal } from "../journal/journal.ts";
import type { Log } from "../log.ts";
import { workerUrl } from "../native/worker-url.ts";
import { Store } from "../store/store.ts";
import { type Home, temporaryShare } from "./home.ts";

const RETRY_MS = 500;

/** Failures that another attempt cannot mend: the database belongs to another journal, or the Worker cannot start. */
const FINAL_CODES: readonly ErrorCode[] = ["foreign_store", "store_behind", "temp_folder"];

/**
 * Opens DuckDB. The journal counts each attempt before it begins and clears the count after a success, because
 * replaying a broken WAL can abort the process. After two failures in a row the WAL is set aside; the journal refills
 * what it held.
 * @throws GatewayError if the failure is final, or if the third attempt fails as well.
 */
export async function openStore(
  config: Pick<Config, "dbPath" | "tempLimitBytes" | "memoryLimitBytes">,
  home: Home,
  journal: Journal,
  log: Log,
): Promise<Store> {
  for (;;) {
    const quarantine = journal.openAttempts() >= 2;
    if (quarantine) {
      log("error", `store ${home.databasePath}: opening failed twice; its WAL is set aside and refilled`);
    }
    journal.raiseOpenAttempts();
    try {
      const store = await Store.open({
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
      const final = error instanceof GatewayError && FINAL_CODES.includes(error.code);
      if (final) journal.clearOpenAttempts();
      if (final || quarantine) throw error;
      log("error", `${messageOf(error)}; trying again`);
      await Bun.sleep(RETRY_MS);
    }
  }
}
