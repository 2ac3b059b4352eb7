// Follows a node's deployments, or the events of one of them, over its restarts, and prints what it sees as JSON lines:
//   {"listed": [ids], "token"}              the deployments there are; the changes after the token follow
//   {"change": type, "id", "state", "token"}
//   {"event": id, "reason"}
//   {"again": code}                         it cannot go on from its last token, and begins anew
//   {"lost": code}                          the node is away, or the call was over; it goes on from its last token
//
// usage: node watch.mjs ADDRESS TOKEN_FILE deployments | node watch.mjs ADDRESS TOKEN_FILE events NAME
import { setTimeout as sleep } from "node:timers/promises";
import { Orchestrator, code, codeName } from "./contract.mjs";

const PAUSE_MS = 100;
/** What another try can mend, from the same token. */
const PASSING = [code.UNAVAILABLE, code.ABORTED, code.DEADLINE_EXCEEDED, code.CANCELLED];

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** All deployments, page by page; gives the token after which their changes follow. */
async function list(node) {
  const ids = [];
  let page_token = "";
  let token;
  do {
    const answer = await node.ask("ListDeployments", { page_token });
    ids.push(...answer.deployments.map((deployment) => deployment.deployment_id));
    token ??= answer.resume_token;
    page_token = answer.next_page_token;
  } while (page_token);
  say({ listed: ids, token });
  return token;
}

const DEPLOYMENTS = {
  begin: list,
  open: (node, resume_token) => node.stream("WatchDeployments", { resume_token }),
  tell: ({ type, deployment, resume_token: token }) => {
    if (deployment) say({ change: type, id: deployment.deployment_id, state: deployment.state, token });
  },
};

const events = (name) => ({
  begin: async () => "",
  open: (node, resume_token) => node.stream("WatchDeploymentEvents", { name, resume_token }),
  tell: ({ event }) => say({ event: event.event_id, reason: event.reason }),
});

/** For ever; throws what neither patience nor a new beginning can mend. */
async function follow(node, watched) {
  let token;
  for (;;) {
    try {
      token ??= await watched.begin(node);
      for await (const message of watched.open(node, token)) {
        watched.tell(message);
        token = message.resume_token || token;
      }
    } catch (error) {
      if (error.code === code.OUT_OF_RANGE) {
        say({ again: codeName(error) });
        token = undefined;
        continue;
      }
      if (!PASSING.includes(error.code)) throw error;
      say({ lost: codeName(error) });
      await sleep(PAUSE_MS);
    }
  }
}

const [address, tokenFile, what, name] = process.argv.slice(2);
await follow(new Orchestrator(address, tokenFile), what === "events" ? events(name) : DEPLOYMENTS);
