//! Which shard a scheduler has started.

use std::fmt;
use std::str::FromStr;

use super::Shard;
use super::shard::MOST_SHARDS;
use crate::error::{Error, Result};

/// The numbers of a scheduler's array of jobs: `first-last`, or `first-last:step`, as in Slurm's
/// and PBS's `--array` options.
///
/// ```
/// use patchlens::journal::JobArray;
/// let array: JobArray = "10-100:10".parse()?;
/// assert_eq!(array.len(), 10);
/// assert_eq!(array.shard(30)?.to_string(), "3/10");
/// assert_eq!(array.job(2), 30);
/// assert!(array.shard(31).is_err());
/// # Ok::<(), patchlens::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobArray {
    first: usize,
    step: usize,
    len: usize,
}

/// A scheduler's variables.
struct Scheduler {
    name: &'static str,
    /// The job's number.
    index: &'static str,
    /// The first and last number and the step; empty where it does not say them.
    array: [&'static str; 3],
    /// How many jobs were started.
    count: &'static str,
}

const SCHEDULERS: [Scheduler; 5] = [
    Scheduler {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        array: [
            "SLURM_ARRAY_TASK_MIN",
            "SLURM_ARRAY_TASK_MAX",
            "SLURM_ARRAY_TASK_STEP",
        ],
        count: "SLURM_ARRAY_TASK_COUNT",
    },
    Scheduler {
        name: "Grid Engine",
        index: "SGE_TASK_ID",
        array: ["SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"],
        count: "",
    },
    Scheduler {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        array: [""; 3],
        count: "",
    },
    Scheduler {
        name: "PBS",
        index: "PBS_ARRAY_INDEX",
        array: [""; 3],
        count: "",
    },
    Scheduler {
        name: "Torque",
        index: "PBS_ARRAYID",
        array: [""; 3],
        count: "",
    },
];

impl JobArray {
    /// How many jobs it has.
    #[expect(clippy::len_without_is_empty, reason = "it has at least one")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The shard of the job with this number.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a number that the array does not have.
    pub fn shard(&self, job: usize) -> Result<Shard> {
        let index = job.checked_sub(self.first);
        let index = index.filter(|distance| distance % self.step == 0);
        let index = index.map(|distance| distance / self.step);
        match index.filter(|index| *index < self.len) {
            Some(index) => Shard::new(index, self.len),
            None => Err(Error::invalid(
                "number of an array's job",
                job,
                format!("one of {self}"),
            )),
        }
    }

    /// The number of the job that runs the shard of this index, from 0.
    pub fn job(&self, shard: usize) -> usize {
        self.first + shard * self.step
    }

    /// The shard that a scheduler's variables name: those of Slurm, Grid Engine, Kubernetes
    /// (Indexed Jobs), PBS and Torque. `array` says all numbers that the array of jobs has; it may
    /// be left out where the scheduler says them itself, and must be given where only a part of
    /// the jobs was started, for that would look like a smaller array.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of an array of jobs, without an array where one is needed, and
    /// for a job that is none of its.
    pub fn current(array: Option<JobArray>) -> Result<(Shard, JobArray)> {
        Self::from_variables(array, |name| std::env::var(name).ok())
    }

    fn from_variables(
        array: Option<JobArray>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(Shard, JobArray)> {
        let set = |scheduler: &&Scheduler| variable(scheduler.index).is_some();
        let Some(scheduler) = SCHEDULERS.iter().find(set) else {
            let names = SCHEDULERS.map(|scheduler| scheduler.index).join(", ");
            let expected = format!("to run in an array of jobs, with one of {names}");
            return Err(Error::invalid("scheduler", "none", expected));
        };
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name).filter(|_| !name.is_empty()) else {
                return Ok(None);
            };
            let wrong = |_| Error::invalid(name, format!("`{text}`"), "a number");
            text.parse().map(Some).map_err(wrong)
        };
        let job = number(scheduler.index)?.expect("it was just seen");
        let array = match array {
            Some(array) => array,
            None => {
                let [first, last, step] = scheduler.array.map(number);
                let (first, last) = first?.zip(last?).ok_or_else(|| {
                    let what = format!("array of {}'s jobs", scheduler.name);
                    Error::invalid(what, "nothing that says it", "its numbers, such as 0-99")
                })?;
                let array = JobArray::new(first, last, step?.unwrap_or(1))?;
                if let Some(count) = number(scheduler.count)?.filter(|n| *n != array.len) {
                    return Err(Error::invalid(
                        format!("jobs of {}'s array", scheduler.name),
                        format!("{count} between {first} and {last}"),
                        "all of an array, or the numbers of the whole array, such as 0-99",
                    ));
                }
                array
            }
        };
        Ok((array.shard(job)?, array))
    }

    fn new(first: usize, last: usize, step: usize) -> Result<Self> {
        if step == 0 || last < first {
            let found = format!("{first}-{last}:{step}");
            let expected = "ascending numbers and a step, such as 0-99 or 10-100:10";
            return Err(Error::invalid("array of jobs", found, expected));
        }
        let after_first = (last - first) / step;
        if after_first >= MOST_SHARDS {
            let found = format!("{first}-{last}:{step}");
            let expected = format!("at most {MOST_SHARDS} jobs");
            return Err(Error::invalid("array of jobs", found, expected));
        }
        Ok(JobArray {
            first,
            step,
            len: after_first + 1,
        })
    }
}

impl fmt::Display for JobArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.job(self.len - 1))?;
        match self.step {
            1 => Ok(()),
            step => write!(f, ":{step}"),
        }
    }
}

impl FromStr for JobArray {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = || {
            let (range, step) = text.split_once(':').unwrap_or((text, "1"));
            let (first, last) = range.split_once('-')?;
            Some((first.parse().ok()?, last.parse().ok()?, step.parse().ok()?))
        };
        let (first, last, step) = numbers().ok_or_else(|| {
            let expected = "numbers such as 0-99 or 10-100:10";
            Error::invalid("array of jobs", format!("`{text}`"), expected)
        })?;
        JobArray::new(first, last, step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(array: Option<&str>, variables: &[(&str, &str)]) -> Result<String> {
        let array = array.map(str::parse).transpose()?;
        let value = |name: &str| {
            let found = variables.iter().find(|(of, _)| *of == name);
            found.map(|(_, value)| (*value).to_string())
        };
        JobArray::from_variables(array, value).map(|(shard, _)| shard.to_string())
    }

    fn slurm(id: &'static str, of: [&'static str; 4]) -> Vec<(&'static str, &'static str)> {
        let [min, max, step, count] = of;
        vec![
            ("SLURM_ARRAY_TASK_ID", id),
            ("SLURM_ARRAY_TASK_MIN", min),
            ("SLURM_ARRAY_TASK_MAX", max),
            ("SLURM_ARRAY_TASK_STEP", step),
            ("SLURM_ARRAY_TASK_COUNT", count),
        ]
    }

    #[test]
    fn slurms_arrays_have_any_start_and_step() {
        assert_eq!(
            shard(None, &slurm("0", ["0", "9", "1", "10"])).unwrap(),
            "1/10"
        );
        assert_eq!(
            shard(None, &slurm("30", ["10", "49", "10", "4"])).unwrap(),
            "3/4"
        );
    }

    #[test]
    fn a_part_of_an_array_needs_the_whole_to_be_said() {
        let resubmitted = slurm("7", ["3", "7", "1", "2"]);
        let error = shard(None, &resubmitted).unwrap_err().to_string();
        assert!(error.contains("2 between 3 and 7"), "{error}");
        assert_eq!(shard(Some("0-9"), &resubmitted).unwrap(), "8/10");
    }

    #[test]
    fn other_schedulers_do_not_say_how_many_there_are() {
        for name in ["JOB_COMPLETION_INDEX", "PBS_ARRAY_INDEX", "PBS_ARRAYID"] {
            assert_eq!(shard(Some("0-3"), &[(name, "2")]).unwrap(), "3/4");
            assert!(shard(None, &[(name, "2")]).is_err());
            let error = shard(Some("0-3"), &[(name, "4")]).unwrap_err().to_string();
            assert!(error.contains("found 4; expected one of 0-3"), "{error}");
        }
        let engine = [
            ("SGE_TASK_ID", "5"),
            ("SGE_TASK_FIRST", "1"),
            ("SGE_TASK_LAST", "9"),
            ("SGE_TASK_STEPSIZE", "2"),
        ];
        assert_eq!(shard(None, &engine).unwrap(), "3/5");
        let error = shard(None, &[]).unwrap_err().to_string();
        assert!(error.contains("scheduler: found none"), "{error}");
        assert!(shard(None, &[("SLURM_ARRAY_TASK_ID", "x")]).is_err());
        for many in ["0-1000000", "0-18446744073709551615"] {
            assert!(many.parse::<JobArray>().is_err(), "{many}");
        }
    }
}
