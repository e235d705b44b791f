// mongoose's part of node_stories.py: schemas, validation, population, transactions, a change stream, a failover.

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const mongoose = require('mongoose');

const [uri, stepdown, control] = process.argv.slice(2);
const say = (text) => console.log(`  mongoose: ${text}`);

const Author = mongoose.model('Author', new mongoose.Schema({ name: { type: String, required: true, unique: true } }));
const Book = mongoose.model('Book', new mongoose.Schema(
  { title: String, pages: { type: Number, min: 1 }, author: { type: mongoose.Schema.Types.ObjectId, ref: 'Author' } },
  { timestamps: true, optimisticConcurrency: true },
));

async function documents() {
  await Promise.all([Author.deleteMany(), Book.deleteMany()]);
  await Author.init();
  const author = await Author.create({ name: 'Ada' });
  await assert.rejects(Author.create({ name: 'Ada' }), (error) => error.code === 11000);
  await assert.rejects(Book.create({ title: 'Nothing', pages: 0 }), mongoose.Error.ValidationError);
  const book = await Book.create({ title: 'Notes', pages: 40, author });
  book.pages = 41;
  await book.save();
  const found = await Book.findOne({ pages: { $gte: 41 } }).populate('author').lean();
  assert.equal(found.author.name, 'Ada');
  assert.equal((await Book.aggregate([{ $group: { _id: null, pages: { $sum: '$pages' } } }]))[0].pages, 41);
  say('created, validated, saved, populated, aggregated');
}

async function transaction() {
  await assert.rejects(mongoose.connection.transaction(async (session) => {
    await Book.create([{ title: 'Draft', pages: 1 }], { session });
    throw new Error('given up');
  }), /given up/);
  assert.equal(await Book.countDocuments({ title: 'Draft' }), 0);
  await mongoose.connection.transaction((session) => Book.create([{ title: 'Final', pages: 1 }], { session }));
  assert.equal(await Book.countDocuments({ title: 'Final' }), 1);
  say('rolled one transaction back and committed another');
}

async function watching() {
  const stream = Book.watch();
  const change = new Promise((resolve, reject) => {
    stream.on('change', resolve);
    stream.on('error', reject);
  });
  await new Promise((resolve) => setTimeout(resolve, 500));
  await Book.create({ title: 'Seen', pages: 2 });
  assert.equal((await change).fullDocument.title, 'Seen');
  await stream.close();
  say('watched a model');
}

async function failover() {
  const { primary } = await mongoose.connection.db.admin().command({ hello: 1 });
  execFileSync(stepdown, ['ctl', '--control', control, 'kill', 'primary']);
  for (let attempt = 0; ; attempt += 1) {
    try {
      await Book.create({ title: 'After', pages: 3 });
      break;
    } catch (error) {
      if (attempt === 20) throw error;
    }
  }
  assert.equal(await Book.countDocuments({ title: 'After' }), 1);
  execFileSync(stepdown, ['ctl', '--control', control, 'restart', primary]);
  say('wrote on after its primary was killed');
}

(async () => {
  await mongoose.connect(uri, { heartbeatFrequencyMS: 1000, dbName: 'mongoose' });
  for (const story of [documents, transaction, watching, failover]) await story();
  await mongoose.disconnect();
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
