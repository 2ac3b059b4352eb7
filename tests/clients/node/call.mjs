// Makes one call of a node, as the .proto files alone describe it, and prints each answer as a line of JSON.
// The request is JSON on stdin. An error is the line {"error": status, "message"}, and exit code 1.
//
// usage: node call.mjs ADDRESS TOKEN_FILE registry|orchestrator|… METHOD SECONDS
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));

const [address, tokenFile, area, method, seconds] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const definition = loader.loadSync(`beemesh/${area}/v1/${area}_service.proto`, {
  includeDirs: [PROTOS],
  keepCase: true,
  enums: String,
  longs: String,
});
const Service = Object.values(grpc.loadPackageDefinition(definition).beemesh[area].v1).find((each) => each.service);
const stub = new Service(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", `Bearer ${readFileSync(tokenFile, "utf8").trim()}`);
const request = JSON.parse(readFileSync(0, "utf8"));
const options = { deadline: Date.now() + Number(seconds) * 1000 };

/** The answers, of which a plain call has one. */
async function* answers() {
  if (Service.service[method].responseStream) {
    yield* stub[method](request, metadata, options);
    return;
  }
  yield await new Promise((resolve, reject) =>
    stub[method](request, metadata, options, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
}

try {
  for await (const answer of answers()) say(answer);
} catch (error) {
  say({ error: grpc.status[error.code] ?? String(error.code), message: error.details ?? error.message });
  process.exitCode = 1;
} finally {
  stub.close();
}
