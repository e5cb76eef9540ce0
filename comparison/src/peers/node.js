// Node's own IPC: a process that calls, and one that it has forked, which answers.
// Told what to do by JSON lines on standard input; answers with JSON lines.
'use strict';
const { fork } = require('node:child_process');
const readline = require('node:readline');

const NUMBER = 8;

if (process.argv[2] === 'server') {
  process.on('message', (message) => process.send(message));
  process.on('disconnect', () => process.exit(0));
} else {
  main();
}

function start() {
  // 'advanced' clones buffers as bytes; 'json', the default, would make text of them.
  return fork(__filename, ['server'], { serialization: 'advanced' });
}

function requests(size) {
  const buffer = Buffer.alloc(size);
  for (let at = 0; at < size; at++) buffer[at] = (at * 7) & 0xff;
  let next = 0n;
  return () => {
    buffer.writeBigUInt64LE(next, 0);
    buffer.writeBigUInt64LE(next, size - NUMBER);
    next += 1n;
    return buffer;
  };
}

function check(reply, size, number) {
  const bytes = Buffer.from(reply.buffer, reply.byteOffset, reply.byteLength);
  if (bytes.length !== size || bytes.readBigUInt64LE(0) !== number
      || bytes.readBigUInt64LE(size - NUMBER) !== number) {
    throw new Error(`a reply of ${bytes.length} bytes is not the answer to call ${number}`);
  }
}

function reply(server) {
  return new Promise((resolve) => server.once('message', resolve));
}

async function call(server, next, size, number) {
  const answer = reply(server);
  server.send(next());
  check(await answer, size, number);
}

const percentile = (sorted, share) =>
  sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? 0;

function latency(times) {
  const sorted = [...times].sort((a, b) => a - b);
  return {
    operations: times.length,
    typical_ns: percentile(sorted, 0.5),
    mean_ns: times.reduce((sum, time) => sum + time, 0) / times.length,
    p50_ns: percentile(sorted, 0.5),
    p90_ns: percentile(sorted, 0.9),
    p99_ns: percentile(sorted, 0.99),
    p999_ns: percentile(sorted, 0.999),
    min_ns: sorted[0],
    max_ns: sorted[sorted.length - 1],
    clock_ns: 0,
    curve: [],
  };
}

// One call after the other, each timed.
async function roundTrips(server, { size, run_ns, warm_up_ns }) {
  const next = requests(size);
  let number = 0n;
  const warm = process.hrtime.bigint() + BigInt(warm_up_ns);
  do await call(server, next, size, number++); while (process.hrtime.bigint() < warm);
  const times = [];
  const end = process.hrtime.bigint() + BigInt(run_ns);
  let begin = process.hrtime.bigint();
  do {
    await call(server, next, size, number++);
    const now = process.hrtime.bigint();
    times.push(Number(now - begin));
    begin = now;
  } while (begin < end);
  return latency(times);
}

// A window of calls in flight: half of it is sent when half of it has been answered.
function pipelined(server, { size, window, run_ns, warm_up_ns }) {
  return new Promise((resolve, reject) => {
    const next = requests(size);
    let sent = 0, answered = 0n, counted = 0;
    const from = process.hrtime.bigint() + BigInt(warm_up_ns);
    const end = from + BigInt(run_ns);
    let begin = null;
    const fill = () => {
      while (sent - Number(answered) < window) { server.send(next()); sent += 1; }
    };
    server.on('message', function take(message) {
      try { check(message, size, answered); } catch (error) { reject(error); return; }
      answered += 1n;
      if (begin !== null) counted += 1;
      if (sent - Number(answered) > window / 2) return;
      const now = process.hrtime.bigint();
      if (begin === null && now >= from) { begin = now; counted = 0; }
      if (now < end) { fill(); return; }
      if (sent > Number(answered)) return;
      server.removeListener('message', take);
      const seconds = Number(now - begin) / 1e9;
      resolve({
        operations: counted, seconds, mean_per_second: counted / seconds,
        typical_per_second: counted / seconds, bytes_each: size,
      });
    });
    fill();
  });
}

async function main() {
  const server = start();
  server.once('error', (error) => { throw error; });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const order = JSON.parse(line);
    let outcome;
    try {
      if (order.kind === 'greet') {
        await call(server, requests(order.size), order.size, 0n);
        outcome = { processes: [process.pid, server.pid] };
      } else if (order.kind === 'round_trips') {
        outcome = await roundTrips(server, order);
      } else {
        outcome = await pipelined(server, order);
      }
      outcome = { Ok: outcome };
    } catch (error) {
      outcome = { Err: String(error) };
    }
    process.stdout.write(`${JSON.stringify(outcome)}\n`);
  }
  server.disconnect();
}
