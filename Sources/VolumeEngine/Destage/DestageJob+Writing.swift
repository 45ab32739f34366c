import Base
import DeviceIO
import DiskFormat

/// A job's second half: its blocks go to their home, then the record says so.
extension Volume {
  mutating func beginJobWrites(_ j: Int) {
    batch.jobs[j].phase = .writing
    batch.jobs[j].failed = false
    batch.jobs[j].pending = 1
    let job = batch.jobs[j]
    let isFresh = !job.fresh.isNone
    let home = isFresh ? job.fresh : table.record(job.frame, job.extent).home
    let mask = job.data | job.carried
    batch.touched |= 1 << UInt64(home.device.rawValue)
    var i = 0
    while i < 16 {
      guard mask & (1 << UInt16(i)) != 0 else {
        i += 1
        continue
      }
      var n = 1
      if isFresh {
        n = 16 - i - mask.leadingZeroBitCount
        for k in i..<i + n where mask & (1 << UInt16(k)) == 0 {
          (jobBuffer(j) + k << 12).zero(Size.block)
        }
      } else {
        while i + n < 16, mask & (1 << UInt16(i + n)) != 0 { n += 1 }
      }
      batch.jobs[j].pending += 1
      batch.bytesDone += n << 12
      order(
        DeviceOperation(
          .write, device: home.device, offset: home.byteOffset + UInt64(i << 12),
          length: n << 12, memory: source(j, i),
          token: Token.make(.jobWrite, j, Int(home.device.rawValue))))
      i += n
    }
    finishJobWrite(j, 0, ok: true)
  }

  mutating func finishJobWrite(_ j: Int, _ device: Int, ok: Bool) {
    invariant(batch.jobs[j].phase == .writing, "V1: a job's write ends while it writes")
    batch.jobs[j].pending -= 1
    if !ok {
      batch.jobs[j].failed = true
      deviceCounters[device].writeErrors += 1
      note(.writeError(DeviceIndex(device)))
    }
    guard batch.jobs[j].pending == 0 else { return }
    if batch.jobs[j].failed {
      // The log still has everything: the batch is done again later.
      batch.isRolledBack = true
    } else {
      changeRecord(j)
    }
    if batch.jobs[j].failed, !batch.jobs[j].fresh.isNone {
      allocator.release(batch.jobs[j].fresh)
    }
    endJob(j)
  }

  mutating func endJob(_ j: Int) {
    table.cache[batch.jobs[j].frame].pins -= 1
    batch.jobs[j].phase = .free
    batch.activeJobs -= 1
    pumpSweep()
  }

  /// The extent's record says what is true now.
  mutating func changeRecord(_ j: Int) {
    let job = batch.jobs[j]
    let record = table.record(job.frame, job.extent)
    for i in 0..<16 where (job.data | job.carried) & (1 << UInt16(i)) != 0 {
      if planted(.staleChecksumKept), job.carried == 0 { continue }
      record.setCRC(i, job.crcs[i])
    }
    let zeroed = job.zero | job.keep
    record.present = (record.present & ~(zeroed | job.lost)) | job.data
    record.lost = (record.lost & ~(job.data | zeroed)) | job.lost
    if job.keep != 0 { record.keepsAllocated = true }
    if !job.fresh.isNone {
      if !record.home.isNone { forgetSlot(record.home) }
      if !record.secondHome.isNone { forgetSlot(record.secondHome) }
      record.secondHome = .none
      record.atSecond = 0
      record.role = .none
      // A move alone belongs to whoever saw the extent before.
      if batch.hasGeneration, job.data != 0 || record.home.isNone {
        record.birth = log.generation(0).pointee.epoch
      }
      record.home = job.fresh
      adoptSlot(job.fresh)
      if job.wasMove { noteMove(job) }
    } else if job.data != 0, !record.secondHome.isNone, record.role != .base {
      forgetSlot(record.secondHome)
      record.secondHome = .none
      record.role = .none
    }
    let mayGo = !record.keepsAllocated || job.zero == 0xffff
    if record.present == 0, job.keep | job.later == 0, mayGo, !record.home.isNone {
      forgetSlot(record.home)
      if !record.secondHome.isNone { forgetSlot(record.secondHome) }
      let lost = record.lost
      record.clear()
      record.lost = lost
    }
  }

  private mutating func noteMove(_ job: DestageJob) {
    let to = allocator.tier(job.fresh.device)
    if to < job.fromTier {
      counters.promotedBytes += UInt64(Size.extent)
    } else {
      counters.demotedBytes += UInt64(Size.extent)
    }
    policy.noteMoved(job.extent, from: job.fromTier, to: to, succeeded: true, now: now)
  }
}
