// The Node driver's part of node_stories.py: everything an application does, then a failover.

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const { MongoClient } = require('mongodb');

const [uri, stepdown, control] = process.argv.slice(2);
const say = (text) => console.log(`  node driver: ${text}`);

async function seeds() {
  const hosts = uri.slice('mongodb://'.length).split('/')[0].split(',');
  for (const host of hosts) {
    const client = new MongoClient(`mongodb://${host}/?replicaSet=foo`);
    await client.connect();
    const hello = await client.db('admin').command({ hello: 1 });
    assert.deepEqual([...hello.hosts].sort(), [...hosts].sort());
    await client.close();
  }
  say(`found the set from each of ${hosts.length} seeds`);
}

async function crud(client) {
  const notes = client.db('node').collection('notes');
  await notes.drop();
  assert.equal((await notes.insertMany([{ _id: 1, a: 1 }, { _id: 2, a: 2 }, { _id: 3, a: 3 }])).insertedCount, 3);
  assert.deepEqual(await notes.find({ a: { $gt: 1 } }).sort({ a: -1 }).project({ _id: 0 }).toArray(), [{ a: 3 }, { a: 2 }]);
  assert.equal((await notes.updateOne({ _id: 1 }, { $inc: { a: 5 } })).modifiedCount, 1);
  assert.equal((await notes.updateMany({ a: { $lt: 4 } }, [{ $set: { b: { $multiply: ['$a', 2] } } }])).modifiedCount, 2);
  assert.equal((await notes.findOneAndUpdate({ _id: 2 }, { $set: { b: 1 } }, { returnDocument: 'after' })).b, 1);
  assert.equal((await notes.replaceOne({ _id: 9 }, { a: 9 }, { upsert: true })).upsertedId, 9);
  await notes.createIndex({ a: 1 }, { unique: true });
  await assert.rejects(notes.insertOne({ _id: 10, a: 9 }), (error) => error.code === 11000 && error.keyPattern.a === 1);
  assert.equal((await notes.deleteOne({ _id: 9 })).deletedCount, 1);
  const bulk = await notes.bulkWrite([
    { insertOne: { document: { _id: 20, a: 20 } } },
    { updateOne: { filter: { _id: 20 }, update: { $set: { c: 1 } } } },
    { deleteOne: { filter: { _id: 20 } } },
  ]);
  assert.deepEqual([bulk.insertedCount, bulk.modifiedCount, bulk.deletedCount], [1, 1, 1]);
  const all = await client.bulkWrite([
    { name: 'insertOne', namespace: 'node.other', document: { _id: 1 } },
    { name: 'deleteMany', namespace: 'node.other', filter: {} },
  ]);
  assert.deepEqual([all.insertedCount, all.deletedCount], [1, 1]);
  const many = client.db('node').collection('many');
  await many.drop();
  await many.insertMany(Array.from({ length: 1000 }, (_, n) => ({ n })));
  let count = 0;
  for await (const document of many.find().batchSize(99)) count += document.n >= 0;
  assert.equal(count, 1000);
  say('inserted, found, updated, replaced, deleted, in bulk and by cursor');
}

async function aggregation(client) {
  const sales = client.db('node').collection('sales');
  await sales.drop();
  await sales.insertMany([{ item: 'tea', n: 2 }, { item: 'tea', n: 3 }, { item: 'ink', n: 7 }]);
  const totals = await sales
    .aggregate([{ $group: { _id: '$item', total: { $sum: '$n' } } }, { $sort: { total: 1 } }])
    .toArray();
  assert.deepEqual(totals, [{ _id: 'tea', total: 5 }, { _id: 'ink', total: 7 }]);
  await sales.aggregate([{ $match: { item: 'tea' } }, { $out: 'teas' }]).toArray();
  assert.equal(await client.db('node').collection('teas').countDocuments(), 2);
  assert.deepEqual(await sales.distinct('item'), ['ink', 'tea']);
  say('aggregated');
}

async function transactions(client) {
  const accounts = client.db('node').collection('accounts');
  await accounts.drop();
  await accounts.insertMany([{ _id: 'a', sum: 10 }, { _id: 'b', sum: 0 }]);
  await client.withSession((session) =>
    session.withTransaction(async () => {
      await accounts.updateOne({ _id: 'a' }, { $inc: { sum: -4 } }, { session });
      await accounts.updateOne({ _id: 'b' }, { $inc: { sum: 4 } }, { session });
      assert.equal((await accounts.findOne({ _id: 'b' })).sum, 0);
    }));
  assert.deepEqual(await accounts.find().sort({ _id: 1 }).map((one) => one.sum).toArray(), [6, 4]);
  const session = client.startSession();
  session.startTransaction();
  await accounts.deleteMany({}, { session });
  await session.abortTransaction();
  await session.endSession();
  assert.equal(await accounts.countDocuments(), 2);
  say('committed one transaction and aborted another');
}

async function changeStream(client) {
  const watched = client.db('node').collection('watched');
  await watched.drop();
  await client.db('node').createCollection('watched');
  const stream = watched.watch([], { fullDocument: 'updateLookup' });
  const next = stream.next();
  // The stream has to be open before there is anything to see.
  await new Promise((resolve) => setTimeout(resolve, 300));
  await watched.insertOne({ _id: 1 });
  await watched.updateOne({ _id: 1 }, { $set: { a: 1 } });
  await watched.deleteOne({ _id: 1 });
  const kinds = [(await next).operationType, (await stream.next()).operationType];
  const token = stream.resumeToken;
  await stream.close();
  const again = watched.watch([], { resumeAfter: token });
  kinds.push((await again.next()).operationType);
  await again.close();
  assert.deepEqual(kinds, ['insert', 'update', 'delete']);
  say('watched a collection, and went on from a resume token');
}

async function failover(client) {
  const notes = client.db('node').collection('notes', { writeConcern: { w: 'majority' } });
  const before = (await client.db('admin').command({ hello: 1 })).primary;
  execFileSync(stepdown, ['ctl', '--control', control, 'kill', 'primary']);
  // One retry is built in; what an application does beyond that is its own affair.
  for (let attempt = 0; ; attempt += 1) {
    try {
      await notes.insertOne({ after: 'the failover' });
      break;
    } catch (error) {
      if (attempt === 20) throw error;
    }
  }
  const after = (await client.db('admin').command({ hello: 1 })).primary;
  assert.notEqual(after, before);
  assert.equal(await notes.countDocuments({ after: 'the failover' }), 1);
  execFileSync(stepdown, ['ctl', '--control', control, 'restart', before]);
  say('wrote on after its primary was killed');
}

(async () => {
  await seeds();
  const client = new MongoClient(uri, { heartbeatFrequencyMS: 1000 });
  for (const story of [crud, aggregation, transactions, changeStream, failover]) await story(client);
  await client.close();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
