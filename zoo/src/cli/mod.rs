//! The command line: arguments in, calls of the library, something readable out.

mod bench;
mod chat;
mod completions;
mod doctor;
mod eval;
mod fetch;
mod folder;
mod generate;
mod image;
mod inspect;
mod language;
mod models;
mod plan;
mod quantize;
mod show;
mod sigmas;
mod table;
mod trace;
mod train;

use crate::{Error, Open, Result, Weights};
use clap::{Args, Parser, Subcommand, ValueEnum};
use framework::Dtype;
use language::{ChatArguments, SamplingArguments};
use serde::{Deserialize, Serialize};
use show::Show;
use std::process::ExitCode;

/// Image, video, language, speech and vision models on MLX.
#[derive(Debug, Parser)]
#[command(name = "zoo", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Print JSON, one object a line, instead of text and progress bars.
    #[arg(long, global = true)]
    json_events: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is one a process")]
enum Command {
    /// List the models: what runs, its size and licence, and whether it is on this machine.
    Models {
        /// Print all that is known of this one, as JSON: what it can be asked for, and what is recommended.
        #[arg(conflicts_with = "markdown")]
        id: Option<String>,
        /// Print the table of the README.
        #[arg(long)]
        markdown: bool,
    },
    /// Show a checkpoint's architecture, parameter tree, dtypes and sizes; reads no weights.
    Inspect {
        /// A model's id, a snapshot's folder, or a .gguf or .safetensors file.
        path: String,
        /// How deep to show the tree.
        #[arg(long, default_value_t = 4)]
        depth: usize,
    },
    /// Download a model into the cache; shows its licence first.
    Fetch {
        /// The model's id, or a repository: `hf:owner/name` or `hf:owner/name@revision`.
        id: String,
    },
    /// Pack a snapshot's weights into few bits, and save it as MLX's tools do.
    Quantize {
        /// A model's id or a snapshot's folder.
        model: String,
        /// Bits an element: 2, 3, 4, 5, 6 or 8.
        #[arg(long, default_value_t = 4, allow_negative_numbers = true)]
        bits: i32,
        /// Elements that share a scale and a bias: 32, 64 or 128.
        #[arg(long, default_value_t = 64, allow_negative_numbers = true)]
        group_size: i32,
        /// The folder to write into; it is made, and must not hold anything yet.
        #[arg(long, value_name = "DIR")]
        out: std::path::PathBuf,
    },
    /// Continue a text.
    Complete {
        /// The text to continue.
        prompt: String,
        #[command(flatten)]
        model: ModelArguments,
        #[command(flatten)]
        sampling: SamplingArguments,
    },
    /// Ask a model; without a question, talk with it.
    Chat {
        /// The question.
        prompt: Option<String>,
        #[command(flatten)]
        chat: ChatArguments,
        #[command(flatten)]
        model: ModelArguments,
        #[command(flatten)]
        sampling: SamplingArguments,
    },
    /// Write the activations whose paths match a pattern as .npy files: of a language model that reads a text, or of a
    /// model that makes pictures.
    ///
    /// index.json names them in order. Of pictures, a path begins with its component, and each entry says the step, which is
    /// 0 before denoising and none after it; of each evaluation of the denoiser also the noise level, the first of the
    /// pictures that it is for, and, where it is guided, the condition: towards or away. A language model reads --model,
    /// --weights and --dtype alone; without --model and --from it is smollm2-135m-instruct.
    Trace(trace::TraceArguments),
    /// Measure how well a model does something.
    Eval {
        #[command(subcommand)]
        what: eval::Evaluation,
    },
    /// Print the noise levels of a schedule, and the timesteps that condition the model, as JSON.
    Sigmas(sigmas::Arguments),
    /// Make pictures from a prompt.
    #[command(args_override_self = true)]
    Generate(generate::GenerateArguments),
    /// Show how much memory making pictures takes, component by component; reads no weights.
    #[command(args_override_self = true)]
    Plan(image::RequestArguments),
    /// Train a model from a recipe, or go on training it.
    Train(train::TrainArguments),
    /// Measure how fast a language model of that size runs here, with random weights; downloads nothing.
    Bench(bench::Arguments),
    /// Show the device, MLX's version and backend, memory, the BLAS in use, and measured speed.
    Doctor,
    /// Print the completions of a shell, which its profile reads: `source <(zoo completions bash)`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct ModelArguments {
    /// A model's id, a fetched `hf:owner/name`, a snapshot's folder, or a .gguf file.
    #[arg(short, long, default_value = "smollm2-135m-instruct")]
    model: String,
    #[command(flatten)]
    compute: ComputeArguments,
}

#[derive(Clone, Copy, Debug, Default, Args, Deserialize, Serialize)]
#[serde(default)]
struct ComputeArguments {
    /// What becomes of packed weights: auto unpacks them on a CPU where memory allows.
    #[arg(long, value_enum, default_value_t)]
    weights: WeightsArgument,
    /// The dtype to compute in: auto is f32 on a CPU, the file's own on a GPU.
    #[arg(long, value_enum, default_value_t)]
    dtype: DtypeArgument,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum WeightsArgument {
    #[default]
    Auto,
    Packed,
    Dense,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum DtypeArgument {
    #[default]
    Auto,
    F32,
    F16,
    Bf16,
}

impl ComputeArguments {
    /// These, and where they leave it open, others.
    fn or(self, other: Self) -> Self {
        Self {
            weights: if self.weights == WeightsArgument::Auto { other.weights } else { self.weights },
            dtype: if self.dtype == DtypeArgument::Auto { other.dtype } else { self.dtype },
        }
    }

    fn open(&self) -> Open {
        let weights = match self.weights {
            WeightsArgument::Auto => Weights::Auto,
            WeightsArgument::Packed => Weights::Packed,
            WeightsArgument::Dense => Weights::Dense,
        };
        let dtype = match self.dtype {
            DtypeArgument::Auto => None,
            DtypeArgument::F32 => Some(Dtype::Float32),
            DtypeArgument::F16 => Some(Dtype::Float16),
            DtypeArgument::Bf16 => Some(Dtype::Bfloat16),
        };
        Open { weights, dtype }
    }
}

/// An error about a value, with the value's name on the command line.
fn as_option(error: Error) -> Error {
    match error {
        Error::Argument { name, problem } | Error::Framework(framework::Error::Argument { name, problem }) => {
            Error::argument(format!("--{}", name.replace('_', "-")), problem)
        }
        other => other,
    }
}

/// Bytes from the GB of `--memory`.
fn gigabytes(number: f64) -> Result<u64> {
    if number.is_finite() && number > 0.0 {
        return Ok((number * 1e9) as u64);
    }
    Err(Error::argument("--memory", format!("{number} is not a number of GB above 0")))
}

/// Parses the arguments of the process and does what they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let show = Show::new(cli.json_events);
    let outcome = match &cli.command {
        Command::Models { id: Some(id), .. } => models::one(id, &show),
        Command::Models { markdown, .. } => models::run(*markdown, &show),
        Command::Inspect { path, depth } => inspect::run(path, *depth, &show),
        Command::Fetch { id } => fetch::run(id, &show),
        Command::Quantize { model, bits, group_size, out } => {
            quantize::run(model, crate::Quantise { bits: *bits, group: *group_size }, out, &show)
        }
        Command::Complete { prompt, model, sampling } => chat::complete(prompt, model, sampling, &show),
        Command::Chat { prompt, chat, model, sampling } => chat::chat(prompt.as_deref(), chat, model, sampling, &show),
        Command::Eval { what } => eval::run(what, &show),
        Command::Trace(arguments) => trace::run(arguments, &show),
        Command::Sigmas(arguments) => sigmas::run(arguments, &show).map_err(as_option),
        Command::Generate(arguments) => generate::run(arguments, &show),
        Command::Plan(arguments) => plan::run(arguments, &show),
        Command::Train(arguments) => train::run(arguments, &show),
        Command::Bench(arguments) => bench::run(arguments, &show),
        Command::Doctor => doctor::run(&show),
        Command::Completions { shell } => completions::run(*shell, &show),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read the output has seen enough.
        Err(Error::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            show.error(&error);
            ExitCode::FAILURE
        }
    }
}
