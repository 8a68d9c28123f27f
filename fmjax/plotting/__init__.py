"""Pictures of fits and searches; each is drawn on Matplotlib axes and returns them, and ``save_*`` write whole ones."""

from fmjax.plotting.bootstraps import bootstrap_cloud, bootstrap_clouds, bootstrap_histogram, save_bootstrap
from fmjax.plotting.designs import rates_of_design, save_designs
from fmjax.plotting.evaluations import errors_by_run, residuals, save_evaluations
from fmjax.plotting.fits import curves_and_fits, residuals_of_fit, save_fit
from fmjax.plotting.forecasts import changes_from_planned, forecast_of, save_forecast
from fmjax.plotting.maps import heat_map, losses_by_rate_and_ratio
from fmjax.plotting.optima import optima_against, regret_against_ratio, save_transfer
from fmjax.plotting.recommendations import excess_against_ratio, loss_against_ratio, save_recommendation
from fmjax.plotting.regions import best_against_size, loss_against_batch, loss_against_size, loss_over_rate_and_batch
from fmjax.plotting.schedules import annealing_momenta, forward_effects, rates, save_schedules
from fmjax.plotting.searches import best_losses, best_ratios, save_search
from fmjax.plotting.style import COLORS

__all__ = [
    "COLORS",
    "annealing_momenta",
    "best_against_size",
    "best_losses",
    "best_ratios",
    "bootstrap_cloud",
    "bootstrap_clouds",
    "bootstrap_histogram",
    "changes_from_planned",
    "curves_and_fits",
    "errors_by_run",
    "excess_against_ratio",
    "forecast_of",
    "forward_effects",
    "heat_map",
    "loss_against_batch",
    "loss_against_ratio",
    "loss_against_size",
    "loss_over_rate_and_batch",
    "losses_by_rate_and_ratio",
    "optima_against",
    "rates",
    "rates_of_design",
    "regret_against_ratio",
    "residuals",
    "residuals_of_fit",
    "save_bootstrap",
    "save_designs",
    "save_evaluations",
    "save_fit",
    "save_forecast",
    "save_recommendation",
    "save_schedules",
    "save_search",
    "save_transfer",
]
