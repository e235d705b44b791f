// mongosh's part of node_stories.py: what a person types. Runs inside mongosh, on a connection to the whole set.

const assert = require('node:assert');
const say = (text) => print(`  mongosh: ${text}`);

const status = rs.status();
assert.equal(status.set, 'foo');
assert.deepEqual(status.members.map((member) => member.stateStr).sort(), ['PRIMARY', 'SECONDARY', 'SECONDARY']);
const configuration = rs.conf();
assert.equal(configuration.members.length, 3);
assert.ok(rs.hello().isWritablePrimary);
assert.ok(db.adminCommand('listDatabases').databases.some((one) => one.name === 'local'));
assert.ok(db.serverStatus().connections.current > 0);
assert.equal(db.version().split('.').length, 3);
assert.ok(Array.isArray(db.currentOp().inprog));
say('rs.status(), rs.conf(), rs.hello(), db.serverStatus(), db.currentOp()');

use('shell');
db.notes.drop();
db.notes.insertMany([{ _id: 1, a: 1 }, { _id: 2, a: 2 }]);
assert.equal(db.notes.find({ a: { $gte: 1 } }).sort({ a: -1 }).toArray()[0]._id, 2);
db.notes.updateOne({ _id: 1 }, { $set: { b: 1 } });
assert.equal(db.notes.findOne({ _id: 1 }).b, 1);
db.notes.createIndex({ a: 1 });
assert.equal(db.notes.getIndexes().length, 2);
assert.equal(db.notes.countDocuments(), 2);
assert.ok(db.getCollectionNames().includes('notes'));
assert.equal(db.notes.aggregate([{ $group: { _id: null, sum: { $sum: '$a' } } }]).toArray()[0].sum, 3);
assert.equal(db.notes.stats().count, 2);
db.notes.deleteOne({ _id: 2 });
say('CRUD, indexes, aggregation, collection statistics');

const session = db.getMongo().startSession();
session.startTransaction();
session.getDatabase('shell').notes.insertOne({ _id: 3 });
assert.equal(db.notes.countDocuments({ _id: 3 }), 0);
session.commitTransaction();
session.endSession();
assert.equal(db.notes.countDocuments({ _id: 3 }), 1);
say('a transaction');

const stream = db.notes.watch();
assert.equal(stream.tryNext(), null);
db.notes.insertOne({ _id: 4 });
let change = null;
for (let attempt = 0; attempt < 50 && !change; attempt += 1) change = stream.tryNext();
assert.equal(change.documentKey._id, 4);
stream.close();
say('a change stream');

const before = rs.hello().primary;
try {
  rs.stepDown(5, 1);
} catch (error) {
  // A primary may close the connection over which it was told to step down.
  assert.match(String(error), /connection|closed|reset/i);
}
let after = before;
for (let attempt = 0; attempt < 100 && (after === before || !after); attempt += 1) {
  sleep(100);
  after = rs.hello().primary;
}
assert.notEqual(after, before);
db.notes.insertOne({ _id: 5 });
say('rs.stepDown(), and a write to the next primary');
